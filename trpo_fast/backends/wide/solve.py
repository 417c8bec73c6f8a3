"""Conjugate gradient in three kernels beside each product; what it decides stays on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...core.cg import CgResult, dot
from ...core.problem import CgConfig
from .kernels import vectors
from .launch import launch
from .tiles import Tiles

MOST_PROGRAMS = 512  # whose partial sums every program adds up


def solved(
    product: Callable[[Tensor], Tensor], g: Tensor, config: CgConfig, tiles: Tiles
) -> CgResult:
    """Plain conjugate gradient on A x = g, g [K, P]: ``core.cg.cg``, step by step, without a
    preconditioner.
    """
    vector = _Vectors(g, config, tiles)
    for _ in range(config.iterations):
        vector.advance(product(vector.p))
    x, r = vector.x, vector.r
    rr, _, _, first, _, used, *_ = vector.state.unbind(-1)
    none = torch.zeros_like(used, dtype=torch.int64)
    quad = dot(x, g - r)
    return CgResult(x, quad, rr.sqrt(), used.long(), first, dot(g, x), none)


def of_one(found: CgResult) -> CgResult:
    """The result of [P] from that of [1, P]."""
    alone: list[Any] = [value[0] if isinstance(value, Tensor) else value for value in found]
    return CgResult(*alone)


class _Vectors:
    """x, r, p [K, P] and the numbers [K, 9] of kernels/vectors.py."""

    def __init__(self, g: Tensor, config: CgConfig, tiles: Tiles) -> None:
        self.x, self.r, self.p = torch.zeros_like(g), g.clone(), g.clone()
        self._tiles, self._iterations = tiles, config.iterations
        rr = dot(g, g)
        zero, one = torch.zeros_like(rr), torch.ones_like(rr)
        threshold = max(config.tol, 4.0 * torch.finfo(g.dtype).eps) ** 2 * rr
        gain = torch.full_like(rr, config.gain_tol)
        self.state = torch.stack([rr, threshold, gain, one, zero, zero, zero, one, zero], dim=-1)
        self._middle = torch.empty_like(self.state)
        blocks = -(-g.shape[-1] // tiles.vector)
        self._programs = min(MOST_PROGRAMS, 1 << (blocks - 1).bit_length())
        self._rounds = -(-blocks // self._programs)
        self._curvatures = rr.new_empty(len(g), self._programs)
        self._residuals = torch.empty_like(self._curvatures)

    def advance(self, a_p: Tensor) -> None:
        """One iteration after its product; the last direction is that of nothing."""
        self._launch(vectors.dot_kernel, self.p, a_p, self._curvatures)
        self._launch(
            vectors.step_kernel, self.x, self.r, self.p, a_p, self._curvatures, self._residuals,
            self.state, self._middle, more=(self._iterations,),
        )  # fmt: skip
        self._launch(
            vectors.direction_kernel, self.r, self.p, self._residuals, self._middle, self.state
        )

    def _launch(self, kernel: Any, *tensors: Tensor, more: tuple[int, ...] = ()) -> None:
        columns, size = self.x.shape
        launch(
            kernel, (self._programs, columns), self.x, self._tiles, *tensors, size, self._rounds,
            *more, SIZE=self._tiles.vector, PROGRAMS=self._programs,
        )  # fmt: skip
