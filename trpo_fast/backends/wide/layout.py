"""Where things lie: a net's maps in a flat vector, and matrices as planes of 16 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from ...policy.spec import NetSpec
from .tiles import OUTPUTS, Tiles

# What a float32 becomes: the number of the kernels' constant, the type of a plane, planes.
MODES = {
    "fp16x3": (0, torch.float16, 2),
    "bf16x3": (1, torch.bfloat16, 2),
    "tf32": (2, torch.float32, 1),
}


def up_to(number: int, step: int) -> int:
    """The next multiple of ``step``."""
    return -(-number // step) * step


class NetLayout:
    """The maps of a net: widths, places in a flat vector, tiles of their weights."""

    def __init__(self, spec: NetSpec, tiles: Tiles) -> None:
        pairs = list(pairwise(spec.widths))
        self.maps, self.tiles = len(pairs), tiles
        self.fan_ins = tuple(fan_in for fan_in, _ in pairs)
        self.fan_outs = tuple(fan_out for _, fan_out in pairs)
        begins = (0, *accumulate((fan_in + 1) * out for fan_in, out in pairs))
        self.net = begins[-1]  # parameters that are the net's
        self.weights = begins[:-1]
        self.biases = tuple(end - out for end, out in zip(begins[1:], self.fan_outs, strict=True))
        self.sums = (0, *accumulate(self.fan_outs))  # where each map's biases begin among all
        block = tiles.block
        self.across = tuple(-(-fan_in // block) for fan_in in self.fan_ins)
        down = [-(-out // block) for out in self.fan_outs]
        counts = [a * d for a, d in zip(self.across, down, strict=True)]
        self.first = (0, *accumulate(counts))[:-1]  # tile of every map, in one count
        self.map_tiles = sum(counts)

    def padded(self, width: int) -> int:
        """A width in planes of rows."""
        return up_to(width, self.tiles.depth)

    @property
    def output_width(self) -> int:
        """Columns of the net's outputs in planes: a power of two."""
        return max(OUTPUTS, 1 << (self.fan_outs[-1] - 1).bit_length())

    @property
    def outputs_fit(self) -> bool:
        """Whether all outputs of a row lie in one tile, so that its metric follows at once."""
        return self.output_width <= self.tiles.block


@dataclass(frozen=True)
class Planes:
    """Matrices as planes in one piece of memory, for K right-hand sides."""

    hi: Tensor  # [K, elements]
    lo: Tensor  # the same tensor where there is one plane
    scale: Tensor  # [K, tiles]
    offsets: tuple[int, ...]
    strides: tuple[int, ...]  # between rows
    scale_offsets: tuple[int, ...]
    scale_strides: tuple[int, ...]

    @classmethod
    def empty(
        cls, shapes: Sequence[tuple[int, int]], mode: str, block: int, like: Tensor, columns: int
    ) -> Planes:
        """Room for matrices [rows, stride]. What a tile reads beyond a row is never used, yet has
        to be there.
        """
        _, dtype, planes = MODES[mode]
        sizes = [rows * stride for rows, stride in shapes]
        # Strides above one, counts that 16 divides: else some shapes have kernels of their own.
        across = [max(2, -(-stride // block)) for _, stride in shapes]
        tall = [-(-rows // block) for rows, _ in shapes]
        counts = [up_to(t * a, 16) for t, a in zip(tall, across, strict=True)]
        hi, *lo = (
            torch.empty(columns, sum(sizes) + block, dtype=dtype, device=like.device)
            for _ in range(planes)
        )
        scale = torch.empty(columns, sum(counts), dtype=torch.float32, device=like.device)
        return cls(
            hi,
            lo[0] if lo else hi,
            scale,
            (0, *accumulate(sizes))[:-1],
            tuple(stride for _, stride in shapes),
            (0, *accumulate(counts))[:-1],
            tuple(across),
        )

    def operand(self, m: int) -> tuple[Any, ...]:
        """One matrix as the kernels take it."""
        at, scale_at = self.offsets[m], self.scale_offsets[m]
        return (
            self.hi.view(-1)[at:],
            self.lo.view(-1)[at:],
            self.scale.view(-1)[scale_at:],
            self.strides[m],
            self.hi.shape[1],
            self.scale_strides[m],
            self.scale.shape[1],
        )

    def whole(self) -> tuple[Any, ...]:
        """All of them, for kernels that find the places themselves."""
        return (self.hi, self.lo, self.scale, 0, self.hi.shape[1], 0, self.scale.shape[1])

    def of(self, first: int, count: int) -> Planes:
        """Those of some of the right-hand sides."""
        some = slice(first, first + count)
        return replace(self, hi=self.hi[some], lo=self.lo[some], scale=self.scale[some])

    @property
    def places(self) -> tuple[tuple[int, ...], ...]:
        return (self.offsets, self.strides, self.scale_offsets, self.scale_strides)

    @property
    def nbytes(self) -> int:
        lo = 0 if self.lo is self.hi else self.lo.nbytes
        return self.hi.nbytes + lo + self.scale.nbytes
