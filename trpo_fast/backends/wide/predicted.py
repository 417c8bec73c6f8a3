"""How long a solve of a wide net should take on a device, from what the kernels multiply and move.

Each kernel takes the longest of three: its products on tensor cores, its bytes from device memory,
its bytes from the L2 cache; and the time of a launch in a CUDA graph. Nothing here was measured:
the figures of devices are those of data sheets, times a share that such kernels are known to reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from ...policy.spec import NetSpec
from .layout import NetLayout, up_to
from .tiles import TILES, cut_rows


@dataclass(frozen=True)
class Figures:
    """What a device does in a second: dense products, at the boost clock."""

    arch: str  # of TILES
    multiprocessors: int
    half: float  # flops, fp16 or bf16 with float32 sums
    tf32: float
    fp32: float
    memory: float  # bytes
    l2: float
    l2_bytes: float  # how much it holds


# Flops, device memory, caches and multiprocessors: NVIDIA's data sheets (A100 80GB, H100 and H200
# SXM, HGX B200). L2: 5 120 bytes a clock by A100's whitepaper, which later ones do not publish, at
# each one's boost clock.
DEVICES = {
    "A100": Figures("sm_80", 108, 312e12, 156e12, 19.5e12, 2.04e12, 5120 * 1.41e9, 40e6),
    "H100": Figures("sm_90", 132, 989e12, 494e12, 67e12, 3.35e12, 5120 * 1.83e9, 50e6),
    "H200": Figures("sm_90", 132, 989e12, 494e12, 67e12, 4.8e12, 5120 * 1.83e9, 50e6),
    "B200": Figures("sm_100", 148, 2250e12, 1125e12, 75e12, 7.7e12, 5120 * 1.85e9, 126e6),
}
# What of these kernels reach. L2: others have measured 5.6 TB/s on an H100 PCIe, of 9.0.
TENSOR_SHARE = 0.65  # Triton's and CUTLASS's large products on Hopper
SGEMM_SHARE = 0.75  # cuBLAS in float32
MEMORY_SHARE = 0.85
L2_SHARE = 0.65
LAUNCH_US = 1.4  # between kernels of a CUDA graph: 1.3 to 1.5


@dataclass(frozen=True)
class Load:
    """One kernel: flops on tensor cores or of cuBLAS, bytes of the rows' matrices, bytes read and
    written in all, programs.
    """

    name: str
    flops: float = 0.0
    row_bytes: float = 0.0
    moved: float = 0.0
    programs: float = float("inf")
    float32: bool = False


def device_named(name: str) -> str | None:
    """The entry of DEVICES for the name that a driver gives, such as NVIDIA H200."""
    found = [known for known in DEVICES if known in name]
    return found[0] if found else None


def solve_us(
    spec: NetSpec, rows: int, precision: str, *, device: str = "H200", products: int = 10
) -> float:
    """Microseconds of a solve with so many products, by the kernels of this folder in a CUDA graph,
    the forward pass included.
    """
    figures = DEVICES[device]
    start, each = list(_forward(spec, rows)), list(_product(spec, rows, precision, figures))
    if precision != "fp32":
        start += _splits(NetLayout(spec, TILES[figures.arch]), rows)
    return _total(start, spec, rows, precision, figures) + products * _total(
        each, spec, rows, precision, figures
    )


def reference_us(
    spec: NetSpec, rows: int, *, device: str = "H200", products: int = 10, tf32: bool = False
) -> float:
    """The same by ``backend="reference"`` in a CUDA graph: cuBLAS, and torch's kernels between."""
    figures, precision = DEVICES[device], "tf32" if tf32 else "fp32"
    each = [*_reference_product(spec, rows, tf32), *_reference_vectors(spec)]
    return _total(list(_forward(spec, rows)), spec, rows, "fp32", figures) + products * _total(
        each, spec, rows, precision, figures
    )


def _total(loads: list[Load], spec: NetSpec, rows: int, precision: str, figures: Figures) -> float:
    held = 8.0 * rows * sum(spec.widths)  # activations, and tangents or deltas
    cached = held <= figures.l2_bytes / 2
    return sum(_microseconds(load, precision, figures, cached) for load in loads)


def _microseconds(load: Load, precision: str, figures: Figures, cached: bool) -> float:
    if load.float32:
        rate = figures.fp32 * SGEMM_SHARE
    else:
        rate = (figures.tf32 if precision == "tf32" else figures.half) * TENSOR_SHARE
    busy = min(1.0, load.programs / figures.multiprocessors)  # the rest has nothing to do
    seconds = max(
        load.flops / (rate * busy),
        0.0 if cached else load.row_bytes / (figures.memory * MEMORY_SHARE),
        load.moved / (figures.l2 * L2_SHARE * busy),
    )
    return 1e6 * seconds + LAUNCH_US


def _forward(spec: NetSpec, rows: int) -> Iterator[Load]:
    """cuBLAS in every precision, activations and slopes by torch."""
    for i, (fan_in, fan_out) in enumerate(pairwise(spec.widths)):
        yield _sgemm("forward", rows, fan_in, fan_out)
        if i < spec.maps - 1:
            yield _pointwise("activation", 2 * rows * fan_out)
            yield _pointwise("slope", 4 * rows * fan_out)


def _sgemm(name: str, m: float, k: float, n: float, tf32: bool = False) -> Load:
    """A product [M, K] [K, N] of cuBLAS."""
    moved = 4.0 * (m * k + k * n + m * n)
    return Load(name, 2.0 * m * k * n, moved, moved, float32=not tf32)


def _pointwise(name: str, numbers: float) -> Load:
    """A kernel that reads and writes so many float32 numbers."""
    return Load(name, 0.0, 4.0 * numbers, 4.0 * numbers)


def _splits(layout: NetLayout, rows: int) -> list[Load]:
    """Observations and activations as planes, and the weights of theta and the first direction."""
    planes = [Load("split_rows", 0.0, m, m) for m in (8.0 * rows * w for w in layout.fan_ins)]
    return [*planes, *[Load("split_maps", 0.0, 0.0, 8.0 * layout.net)] * 2]


def _product(spec: NetSpec, rows: int, precision: str, figures: Figures) -> Iterator[Load]:
    """A product and the vectors' part of an iteration of CG."""
    size = 4.0 * spec.size
    if precision == "fp32":
        yield from _float32_product(spec, rows)
        yield Load("dot", 0.0, 0.0, 2 * size)
    else:
        yield from _split_product(NetLayout(spec, TILES[figures.arch]), rows, precision)
    yield Load("step", 0.0, 0.0, 6 * size)
    yield Load("direction", 0.0, 0.0, (3 if precision == "fp32" else 4) * size)


def _float32_product(spec: NetSpec, rows: int) -> Iterator[Load]:
    """product.py:Float32Product."""
    last = spec.maps - 1
    for i, (fan_in, fan_out) in enumerate(pairwise(spec.widths)):
        yield _sgemm("jvp", rows, fan_in, fan_out)
        if i > 0:
            yield _sgemm("jvp", rows, fan_in, fan_out)
        if i < last:
            yield _pointwise("slope", 3 * rows * fan_out)
    yield _pointwise("metric", 3 * rows * spec.widths[-1])
    for i in reversed(range(spec.maps)):
        fan_in, fan_out = spec.widths[i], spec.widths[i + 1]
        yield _sgemm("gradient", fan_out, rows, fan_in)
        yield _pointwise("sum", rows * fan_out)
        if i > 0:
            yield _sgemm("back", rows, fan_out, fan_in)
            yield _pointwise("slope", 3 * rows * fan_in)


def _split_product(layout: NetLayout, rows: int, precision: str) -> Iterator[Load]:
    """split_product.py. Every plane's number has four bytes: two halves, or one of tf32."""
    times, block = 1 if precision == "tf32" else 3, layout.tiles.block
    tall = up_to(rows, block)
    row_tiles = tall // block
    ins = [layout.padded(width) for width in layout.fan_ins]
    outs = [*ins[1:], layout.output_width]
    for i in range(layout.maps):
        operands, last = 1 if i == 0 else 2, i == layout.maps - 1
        across = 1 if last else -(-outs[i] // block)
        wide = outs[i] if last else block
        programs = row_tiles * across
        beside = rows * layout.fan_outs[i] + tall * outs[i]  # slopes or factors in, tangents out
        yield Load(
            "last_map" if last else "jvp_map",
            2.0 * times * operands * programs * block * wide * ins[i],
            4.0 * (operands * tall * ins[i] + beside),
            4.0 * (operands * programs * (block + wide) * ins[i] + beside),
            programs,
        )
    for i in reversed(range(1, layout.maps)):
        programs = row_tiles * -(-ins[i] // block)
        beside = rows * layout.fan_ins[i] + tall * ins[i]
        yield Load(
            "back_map",
            2.0 * times * programs * block * block * outs[i],
            4.0 * (tall * outs[i] + beside),
            4.0 * (programs * 2 * block * outs[i] + beside),
            programs,
        )
    yield from _gradients(layout, tall, times, sum(ins) + sum(outs))


def _gradients(layout: NetLayout, tall: int, times: int, width: int) -> Iterator[Load]:
    block, numbers = layout.tiles.block, layout.map_tiles
    cut = cut_rows(tall // block, numbers, layout.tiles)
    yield Load(
        "weight_gradients",
        2.0 * times * numbers * block * block * tall,
        4.0 * tall * width,
        4.0 * (numbers * 2 * block * tall + cut.pieces * layout.net),
        numbers * cut.pieces,
    )
    yield Load("finish", 0.0, 0.0, 4.0 * (cut.pieces + 2) * layout.net)


def _reference_product(spec: NetSpec, rows: int, tf32: bool) -> Iterator[Load]:
    """core/reference.py: ``jvp``, ``metric``, ``vjp``."""
    last = spec.maps - 1
    for i, (fan_in, fan_out) in enumerate(pairwise(spec.widths)):
        numbers = rows * fan_out
        for _ in range(1 if i == 0 else 2):
            yield _sgemm("jvp", rows, fan_in, fan_out, tf32)
        yield _pointwise("bias", 2 * numbers)
        if i > 0:
            yield _pointwise("add", 3 * numbers)
        if i < last:
            yield _pointwise("slope", 3 * numbers)
    yield _pointwise("metric", 8 * rows * spec.widths[-1])
    for i in reversed(range(spec.maps)):
        fan_in, fan_out = spec.widths[i], spec.widths[i + 1]
        yield _sgemm("gradient", fan_out, rows, fan_in, tf32)
        yield _pointwise("sum", rows * fan_out)
        if i > 0:
            yield _sgemm("back", rows, fan_out, fan_in, tf32)
            yield _pointwise("slope", 3 * rows * fan_in)


def _reference_vectors(spec: NetSpec) -> list[Load]:
    """core/cg.py's kernels of an iteration: vectors of P, and as many of a number a side."""
    vectors = [Load("vector", 0.0, 0.0, 12.0 * spec.size)] * 16
    return [*vectors, *[Load("number")] * 24]
