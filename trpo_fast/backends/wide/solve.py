"""Conjugate gradient in two kernels after each product; what it decides stays on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...core.cg import CgResult, dot
from ...core.problem import CgConfig
from . import tiles as limits
from .kernels import vectors
from .launch import launch
from .tiles import Tiles, shares_of


class Vectors:
    """x, r, p [K, P], the numbers [K, 9] of kernels/vectors.py, and sums that its programs share:
    the curvature p'Ap, which comes with a product, and r'r.
    """

    def __init__(self, g: Tensor, config: CgConfig, tiles: Tiles) -> None:
        self.x, self.r, self.p = torch.zeros_like(g), g.clone(), g.clone()
        self.tiles, self._iterations = tiles, config.iterations
        rr = dot(g, g)
        zero, one = torch.zeros_like(rr), torch.ones_like(rr)
        threshold = max(config.tol, 4.0 * torch.finfo(g.dtype).eps) ** 2 * rr
        gain = torch.full_like(rr, config.gain_tol)
        self.state = torch.stack([rr, threshold, gain, one, zero, zero, zero, one, zero], dim=-1)
        self.middle = torch.empty_like(self.state)
        self.shares = shares_of(g.shape[-1], tiles)
        self.curvatures = rr.new_empty(len(g), self.shares.programs)
        self.residuals = torch.empty_like(self.curvatures)

    def step(self, a_p: Tensor) -> None:
        """x and r, after a product that has left its curvatures."""
        self._launch(
            vectors.step_kernel, self.x, self.r, self.p, a_p, self.curvatures, self.residuals,
            self.state, self.middle, more=(self._iterations,),
        )  # fmt: skip

    def turn(self) -> None:
        """p of the next iteration."""
        self._launch(
            vectors.direction_kernel, self.r, self.p, self.residuals, self.middle, self.state
        )

    def _launch(self, kernel: Any, *tensors: Tensor, more: tuple[int, ...] = ()) -> None:
        columns, size = self.x.shape
        programs, rounds = self.shares
        launch(
            kernel, (programs, columns), self.x, self.tiles, *tensors, size, rounds, programs,
            *more, SIZE=self.tiles.vector, MOST=limits.MOST_PROGRAMS,
        )  # fmt: skip


def solved(
    times: Callable[[Tensor, Tensor], Tensor],
    g: Tensor,
    config: CgConfig,
    tiles: Tiles,
    turn: Callable[[Vectors], None] = Vectors.turn,
) -> CgResult:
    """Plain conjugate gradient on A x = g, g [K, P]: ``core.cg.cg``, step by step, without a
    preconditioner. ``times`` makes A p of p, and of both their programs' shares of p'Ap; ``turn``
    makes the next p. The last of these is that of nothing.
    """
    vector = Vectors(g, config, tiles)
    for _ in range(config.iterations):
        vector.step(times(vector.p, vector.curvatures))
        turn(vector)
    x, r = vector.x, vector.r
    rr, _, _, first, _, used, *_ = vector.state.unbind(-1)
    none = torch.zeros_like(used, dtype=torch.int64)
    quad = dot(x, g - r)
    return CgResult(x, quad, rr.sqrt(), used.long(), first, dot(g, x), none)


def share_curvature(p: Tensor, a_p: Tensor, curvatures: Tensor, tiles: Tiles) -> None:
    """curvatures <- p'Ap [K, P], a share of it from each program."""
    columns, size = p.shape
    programs, rounds = shares_of(size, tiles)
    launch(
        vectors.dot_kernel, (programs, columns), p, tiles, p, a_p, curvatures, size, rounds,
        programs, SIZE=tiles.vector,
    )  # fmt: skip


def of_one(found: CgResult) -> CgResult:
    """The result of [P] from that of [1, P]."""
    alone: list[Any] = [value[0] if isinstance(value, Tensor) else value for value in found]
    return CgResult(*alone)
