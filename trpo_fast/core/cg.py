"""Conjugate gradient, plain and preconditioned, for several right-hand sides at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.reads import may_read


class CgResult(NamedTuple):
    """Conjugate gradient's answer to A x = g, one entry per right-hand side."""

    x: Tensor  # [..., P]
    quad: Tensor  # x'Ax, from x'(g - r): no extra product
    residual_norm: Tensor
    iterations: Tensor
    first_curvature: Tensor  # p'Ap of the first iteration; not positive means A is not
    linear_gain: Tensor  # g'x: what the surrogate gains along x, to first order
    restarts: Tensor  # 1 where the preconditioner failed and plain CG began anew
    factor_rows: int = 0  # rows that the preconditioner's factors were made from
    scaled_blocks: int = 0  # parameters' tensors that it knows no factors of

    def statistics(self) -> dict[str, Tensor]:
        """What an update reports of its solve, by the names of STATS."""
        whole = {"factor_rows": self.factor_rows, "scaled_blocks": self.scaled_blocks}
        return {
            "quad": self.quad,
            "cg_residual": self.residual_norm,
            "cg_iterations": self.iterations,
            "linear_gain": self.linear_gain,
            "restarts": self.restarts,
            **{name: torch.full_like(self.quad, value) for name, value in whole.items()},
        }


def cg(
    product: Callable[[Tensor], Tensor],
    g: Tensor,
    iterations: int,
    tol: float,
    gain_tol: float = 0.0,
    precondition: Callable[[Tensor], Tensor] | None = None,
) -> CgResult:
    """Conjugate gradient from x = 0 on A x = g, g [..., P], plain or with z = M^-1 r; on a GPU no
    step depends on a value read by the host.

    A right-hand side stops as converged, before dividing, when r'r <= (max(tol, 4 eps) |g|)^2, and
    as it is when p'Ap is not positive: at the first iteration that is an error, later x stands.
    With ``gain_tol`` it stops, too, once two products in a row have each brought at most that share
    of x'Ax = sum alpha r'z. Where r'z is not positive or z not finite, plain CG begins anew; on a
    GPU it has the products that are left.
    """
    start = _Start(g, precondition)
    x, r, z, rr, rz = torch.zeros_like(g), g.clone(), start.z, start.gg, start.gz
    p, plain = z.clone(), start.plain
    threshold = (max(tol, 4.0 * torch.finfo(g.dtype).eps)) ** 2 * rr
    active = torch.ones_like(rr, dtype=torch.bool)
    first_curvature, total = torch.ones_like(rr), torch.zeros_like(rr)
    used = torch.zeros_like(rr, dtype=torch.int64)
    small = torch.zeros_like(used)  # products in a row that brought little
    waits = may_read(g.device)
    most = iterations * (2 if waits and precondition is not None else 1)
    for i in range(most):
        active = active & (rr > threshold) & (used < iterations)
        if waits and not active.any():
            break
        a_p = product(p)
        curvature = dot(p, a_p)
        first_curvature = torch.where(active & (used == 0), curvature, first_curvature)
        active = active & (curvature > 0) & torch.isfinite(curvature)
        alpha = torch.where(active, rz / curvature, 0.0)
        move, scale = active.unsqueeze(-1), alpha.to(g.dtype).unsqueeze(-1)
        x = torch.where(move, x + scale * p, x)
        r = torch.where(move, r - scale * a_p, r)
        rr = torch.where(active, dot(r, r), rr)
        total, used = total + alpha * rz, used + active
        small = torch.where(alpha * rz <= gain_tol * total, small + 1, 0)
        active = active & ((small < 2) | (gain_tol <= 0.0)) & (used < iterations)
        if i == most - 1 or (waits and not active.any()):
            break
        z, rz_next = start.preconditioned(r, rr, plain)
        failed = active & ~plain & (rr > threshold) & ~_positive(rz_next)
        beta = torch.where(active, rz_next / rz, 0.0).to(g.dtype).unsqueeze(-1)
        p = torch.where(active.unsqueeze(-1), z + beta * p, p)
        rz = torch.where(active, rz_next, rz)
        if precondition is not None:
            plain, again = plain | failed, failed.unsqueeze(-1)
            x, r, p = x.masked_fill(again, 0.0), torch.where(again, g, r), torch.where(again, g, p)
            rr, rz = torch.where(failed, start.gg, rr), torch.where(failed, start.gg, rz)
            total, used = total.masked_fill(failed, 0.0), used.masked_fill(failed, 0)
    restarts = plain.long() if precondition is not None else torch.zeros_like(used)
    return CgResult(x, dot(x, g - r), rr.sqrt(), used, first_curvature, dot(g, x), restarts)


class _Start:
    """Where CG begins: z = M^-1 g and g'z of every right-hand side, or g and g'g where M is no
    preconditioner.
    """

    def __init__(self, g: Tensor, precondition: Callable[[Tensor], Tensor] | None) -> None:
        self._precondition = precondition
        self.gg = dot(g, g)
        self.plain = torch.full_like(self.gg, precondition is None, dtype=torch.bool)
        z, gz = self.preconditioned(g, self.gg, self.plain)
        self.plain = self.plain | ((self.gg > 0) & ~_positive(gz))
        self.z = torch.where(self.plain.unsqueeze(-1), g, z)
        self.gz = torch.where(self.plain, self.gg, gz)

    def preconditioned(self, r: Tensor, rr: Tensor, plain: Tensor) -> tuple[Tensor, Tensor]:
        """z and r'z of residuals r with r'r = rr; those themselves for right-hand sides that go on
        without.
        """
        if self._precondition is None:
            return r, rr
        z = torch.where(plain.unsqueeze(-1), r, self._precondition(r))
        return z, torch.where(plain, rr, dot(r, z))


def _positive(value: Tensor) -> Tensor:
    return (value > 0) & torch.isfinite(value)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product over the last dimension, accumulated in float64."""
    return (a.double() * b.double()).sum(-1)
