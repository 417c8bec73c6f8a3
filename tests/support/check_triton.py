"""Compiles the Triton kernels for wide nets without a GPU and holds them to a budget.

    python tests/support/check_triton.py            compiles, compares, prints a table
    python tests/support/check_triton.py --update   rewrites tests/support/triton_budget.json

The kernels are compiled for the arguments of a real solve (types, divisibility, constants), as
Triton would at its first launch, for each architecture with the tiles of its table. Tensor-core
instructions may not vanish (wgmma on sm_90, tcgen05 on sm_100), no loop around them may use local
memory, and shared memory has to fit the device.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import torch  # noqa: E402
import triton  # noqa: E402
from check_cuda import Code, parse_resources, parse_sass  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime import JITFunction  # noqa: E402

from trpo_fast import Gaussian, MLPPolicy  # noqa: E402
from trpo_fast.backends.wide import product, solve, split_product  # noqa: E402
from trpo_fast.backends.wide.operator import WideOperator  # noqa: E402
from trpo_fast.backends.wide.tiles import TILES, Tiles  # noqa: E402
from trpo_fast.core.batch import Batch  # noqa: E402
from trpo_fast.core.problem import CgConfig, Problem  # noqa: E402
from trpo_fast.policy.flat import flat_params  # noqa: E402

BUDGET = Path(__file__).with_name("triton_budget.json")
SHARED = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448}  # bytes a block may ask for
# Per architecture the instructions of its tensor cores; a kernel has those of one line.
TENSOR = ("HMMA", "HGMMA", "UTCHMMA", "UTCQMMA")
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# All kernels of fp16x3 and fp32; of the other precisions those that multiply, where they differ.
KERNELS = {
    "fp16x3": None,
    "fp32": None,
    "bf16x3": ("jvp_map_kernel",),
    "tf32": ("jvp_map_kernel", "weight_gradients_kernel"),
}
AT_MOST = {"registers": 16, "stack": 0, "local": 0, "hot_local": 0, "shared": 0}
HIDDEN, OBS, ACTIONS, ROWS = (256, 256, 128), 376, 17, 1000


@dataclass
class Launch:
    """A kernel with what decides how it is compiled."""

    kernel: Any
    signature: dict[str, Any]
    constants: dict[tuple[int, ...], Any]
    aligned: dict[tuple[int, ...], Any]


def launches(mode: str, tiles: Tiles) -> dict[str, Launch]:
    """The launches of a solve of a net like Humanoid's, one of every kernel."""
    found: dict[str, Launch] = {}

    def record(kernel: Any, _grid: Any, _at: Any, _tiles: Any, *given: Any, **named: Any) -> None:
        found[kernel.__name__] = described(kernel, given, named)  # the last map's, the widest

    before = {module: module.launch for module in (product, split_product, solve)}
    try:
        for module in before:
            module.launch = record
        policy = MLPPolicy(OBS, Gaussian(ACTIONS), HIDDEN)
        theta = flat_params(policy)
        rows = Batch(torch.zeros(ROWS, OBS))
        problem = Problem(policy, theta, rows, 0.1, precision=mode)
        WideOperator(problem, tiles=tiles).solve(theta, CgConfig(iterations=1))
    finally:
        for module, launch in before.items():
            module.launch = launch
    return found


def described(kernel: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Launch:
    """What Triton specialises on: types, ones, and what 16 divides."""
    values = dict(zip(kernel.arg_names, given, strict=False)) | named
    made, plain = Launch(kernel, {}, {}, {}), _not_specialised(kernel)
    for place, name in enumerate(kernel.arg_names):
        if name in plain:
            made.signature[name] = "i32"
        else:
            made.signature[name] = _type(values[name], name in named, (place,), made)
    return made


def _not_specialised(kernel: Any) -> set[str]:
    if isinstance(kernel, JITFunction):
        return {parameter.name for parameter in kernel.params if parameter.do_not_specialize}
    return set(kernel.kwargs["do_not_specialize"] or ())  # of an interpreted one


def _type(value: Any, constant: bool, path: tuple[int, ...], made: Launch) -> Any:
    if isinstance(value, tuple):
        return tuple(_type(one, constant, (*path, i), made) for i, one in enumerate(value))
    if constant or (type(value) is int and value == 1):
        made.constants[path] = value
        return "constexpr"
    if isinstance(value, float):
        return "fp32"
    if isinstance(value, torch.Tensor):
        names = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64"}
        names["int32"] = "i32"
        if value.data_ptr() % 16 == 0:
            made.aligned[path] = [["tt.divisibility", 16]]
        return "*" + names[str(value.dtype).removeprefix("torch.")]
    if value % 16 == 0:
        made.aligned[path] = [["tt.divisibility", 16]]
    return "i32" if value < 2**31 else "i64"


def measured(launch: Launch, arch: str, tiles: Tiles) -> dict[str, int]:
    """Registers, spills, tensor-core instructions and shared memory of one compiled kernel."""
    source = ASTSource(launch.kernel, launch.signature, launch.constants, launch.aligned)
    options = {"num_warps": tiles.warps, "num_stages": tiles.stages, "enable_fp_fusion": True}
    target = GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
    compiled = triton.compile(source, target=target, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        (code,) = parse_sass(_ask("-sass", file.name)).values()
        (resources,) = parse_resources(_ask("-res-usage", file.name)).values()
    names = Counter(name for _, name in code.instructions)
    counts = {name.lower(): names[name] for name in TENSOR if names[name]}
    spills = {"local": names["LDL"] + names["STL"], "hot_local": hot_local(code)}
    return resources | counts | spills | {"shared": compiled.metadata.shared}


def hot_local(code: Code) -> int:
    """Local memory in the innermost loops that use tensor cores."""
    loops = [loop for loop in code.innermost() if any(loop[name] for name in TENSOR)]
    return sum(loop["LDL"] + loop["STL"] for loop in loops)


def _ask(option: str, path: str) -> str:
    tool = TOOLS / "cuobjdump"
    environment = os.environ | {"PATH": f"{TOOLS}:{os.environ['PATH']}"}
    done = subprocess.run(
        [tool, option, path], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout


def measure() -> dict[str, dict[str, dict[str, int]]]:
    """kernel and precision -> architecture -> what the budget is about."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for arch in SHARED:
        for mode, wanted in KERNELS.items():
            for name, launch in launches(mode, TILES[arch]).items():
                if wanted is None or name in wanted:
                    kernel = f"{name.removesuffix('_kernel')} {mode}"
                    numbers = measured(launch, arch, TILES[arch])
                    print_line(kernel, arch, numbers)
                    found.setdefault(kernel, {})[arch] = numbers
    return found


def compare(found: dict, budget: dict) -> list[str]:
    """A sentence for everything that is over budget, or missing on either side."""
    wrong = [
        f"{kernel}: only on one side; run check_triton.py --update"
        for kernel in sorted(found.keys() ^ budget.keys())
    ]
    for kernel in sorted(found.keys() & budget.keys()):
        for arch, got in found[kernel].items():
            allowed = budget[kernel][arch]
            for key, free in AT_MOST.items():
                if got[key] > allowed[key] + free:
                    wrong.append(f"{kernel} {arch}: {key} {got[key]}, budget {allowed[key]}")
            for name in map(str.lower, TENSOR):
                if allowed.get(name) and not got.get(name):
                    wrong.append(f"{kernel} {arch}: no {name}, {allowed[name]} in the budget")
    return wrong + rules(found)


def rules(found: dict) -> list[str]:
    """What no budget may allow."""
    wrong = []
    for kernel, archs in found.items():
        for arch, got in archs.items():
            if got["hot_local"]:
                wrong.append(f"{kernel} {arch}: spills in a loop of tensor-core instructions")
            if got["shared"] > SHARED[arch]:
                wrong.append(f"{kernel} {arch}: {got['shared']} bytes of shared memory")
    for kernel in ("jvp_map", "last_map", "back_map", "weight_gradients"):
        for arch, name in (("sm_80", "hmma"), ("sm_90", "hgmma"), ("sm_100", "utchmma")):
            if not found[f"{kernel} fp16x3"][arch].get(name):
                wrong.append(f"{kernel} fp16x3 {arch}: no {name}")
    return wrong


def print_line(kernel: str, arch: str, numbers: dict[str, int]) -> None:
    cells = " ".join(f"{name} {number}" for name, number in numbers.items())
    print(f"{kernel:26} {arch:7} {cells}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--update", action="store_true", help="rewrite the budget")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("TRITON_CACHE_DIR", folder)
        found = measure()
    if options.update:
        BUDGET.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        wrong = rules(found)
    else:
        wrong = compare(found, json.loads(BUDGET.read_text()))
    for line in wrong:
        print(f"over budget: {line}", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
