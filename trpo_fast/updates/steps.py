"""What a step of ``NaturalGradient`` computes, as statistics on the module's device. Where the host
may not read them nothing waits: the search tries every candidate, and a step that is not accepted
writes the parameters that were there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._base.reads import may_read
from ..core.cg import CgResult
from ..core.problem import UpdateConfig
from ..core.reference import line_search, step
from .loop import Closure, Loop
from .step_info import NUMBERS, REASONS

Accept = Callable[[Tensor], "bool | Tensor"]
FAILED = REASONS.index("line_search_failed")


def natural_step(loop: Loop, loss: Closure, config: UpdateConfig) -> Tensor:
    """Statistics of a step along (F + damping I)^-1 g of one loss."""
    before, g = loop.gradients([loss])
    found = loop.solve(g, config.cg)
    beta = step(found.quad[0], config.max_kl).to(g.dtype)
    numbers = {
        "reason": _why_not(before, g[0], found),
        "gradient_norm": g[0].double().norm(),
        "cg_residual": found.residual_norm[0],
        "quad": found.quad[0],
        "linear_gain": found.linear_gain[0],
        "cg_iterations": found.iterations[0],
        "factor_rows": torch.full_like(found.quad[0], found.factor_rows),
        "restarts": found.restarts[0],
    }
    better: Accept = lambda losses: losses[0] < before[0]  # noqa: E731
    return searched(loop, [loss], before, -found.x[0], beta, config, better, numbers)


def _why_not(before: Tensor, g: Tensor, found: CgResult) -> Tensor:
    """Why there is nothing to search along, a number of REASONS, 0-d; 0 if there is."""
    curvature = found.first_curvature[0]
    finite = torch.isfinite(g).all() & torch.isfinite(before).all()
    finite = finite & torch.isfinite(found.x).all() & torch.isfinite(curvature)
    reason = torch.where(curvature <= 0, REASONS.index("negative_curvature"), 0)
    reason = torch.where((g == 0).all(), REASONS.index("zero_gradient"), reason)
    return torch.where(finite, reason, REASONS.index("non_finite"))


def searched(
    loop: Loop,
    losses: list[Closure],
    before: Tensor,
    direction: Tensor,
    scale: Tensor,
    config: UpdateConfig,
    accept: Accept,
    numbers: dict[str, Tensor],
) -> Tensor:
    """Statistics of the search along scale direction [P] from losses [K] ``before``; the step is
    put in place if there is one. Beside ``numbers``, whose reason may speak against any.
    """
    reads = may_read(loop.theta.device)
    reason = numbers.get("reason", torch.zeros_like(scale, dtype=torch.int64))

    def stats(after: Tensor, **more: Tensor) -> Tensor:
        zero = torch.zeros_like(scale, dtype=torch.float64)
        known = {**dict.fromkeys(NUMBERS, zero), **numbers, "scale": scale, **more}
        first = torch.stack([known[name].double() for name in NUMBERS])
        return torch.cat([first, before.double(), after.double()])

    if reads and bool(reason != 0):
        return stats(before, reason=reason)
    j, theta, found = line_search(
        lambda theta: _judged(loop, losses, accept, theta),
        loop.theta,
        scale * direction,
        max_kl=config.max_kl,
        before=torch.zeros_like(scale),
        ratio=config.backtrack_ratio,
        steps=config.backtrack_steps,
    )
    tried = reason == 0
    accepted, reason = tried & found, torch.where(tried & ~found, FAILED, reason)
    j = torch.where(tried, j, 0)
    if reads and not bool(accepted):
        return stats(before, reason=reason, backtracks=j)
    theta = torch.where(accepted, theta, loop.theta)
    kl, after = loop.at(theta, losses)
    loop.write(theta)
    kl, after = torch.where(accepted, kl, 0.0), torch.where(accepted, after, before)
    return stats(after, reason=reason, kl=kl, backtracks=j)


def _judged(
    loop: Loop, losses: list[Closure], accept: Accept, theta: Tensor
) -> tuple[Tensor, Tensor]:
    """The KL at theta, and one where the losses there are finite and accepted, otherwise zero."""
    kl, values = loop.at(theta, losses)
    good = torch.isfinite(values).all()
    if not (may_read(theta.device) and not bool(good)):
        answer = accept(values)
        answer = answer.reshape(()) != 0 if isinstance(answer, Tensor) else bool(answer)
        good = good & answer
    return kl, good.to(kl.dtype)
