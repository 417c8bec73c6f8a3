"""Where the penalised objective surrogate - lambda KL leads from the parameters of a call: along
the natural gradient, or by Adam. lambda is a number, or 0-d on the device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._base import extension
from .._base.guards import outside_autocast
from ..core.batch import total_weight
from ..core.modules import Params, functional_params
from ..core.problem import UpdateConfig
from ..core.surrogate import Measures, evaluate_rows
from ..policy.heads import Head
from .ascent import adam
from .report import Report

Multiplier = float | Tensor


@dataclass
class Proposal:
    """Where the penalised objective of some lambda leads from theta at the call."""

    theta: Tensor  # [P]
    kl: Tensor  # 0-d, against the policy that sampled
    found: Tensor  # 0-d bool: finite, and better
    step_size: float | Tensor
    backtracks: Tensor | None = None
    at_limit: Tensor | None = None  # 0-d bool: lambda asks for less KL than the call has

    @property
    def known_kl(self) -> Tensor:
        """The KL that lambda leads to, 0-d float64; infinite where every step was too long."""
        known = self.found if self.at_limit is None else self.found | self.at_limit
        return torch.where(known, self.kl.double(), math.inf)

    def where(self, better: Tensor, other: Proposal) -> Proposal:
        """This one where ``better`` (0-d) holds, otherwise another of the same kind."""
        mine, theirs = vars(self), vars(other)
        picked = {
            name: torch.where(better, value, theirs[name]) if isinstance(value, Tensor) else value
            for name, value in mine.items()
        }
        return Proposal(**picked)


def natural_proposals(report: Report, search: UpdateConfig) -> Callable[[Multiplier], Proposal]:
    """Solve for x = (F + damping I)^-1 g once; each lambda then searches along x / lambda."""
    operator, ratio, steps = report.operator, search.backtrack_ratio, search.backtrack_steps
    solution = operator.solve(report.g, search.cg)
    finite = torch.isfinite(solution.x).all() & torch.isfinite(solution.first_curvature)
    report.fail("non_finite", ~finite)
    report.fail("negative_curvature", solution.first_curvature <= 0)
    report.values |= solution.statistics()

    def propose(multiplier: Multiplier) -> Proposal:
        device = report.g.device
        divisor = _divisor(report, multiplier, solution.quad)
        found = torch.zeros((), dtype=torch.bool, device=device)
        chosen, kl = operator.theta, report.before.kl
        used = torch.full((), steps, dtype=torch.int64, device=device)
        for j in range(steps):
            candidate = operator.theta + (ratio**j / divisor) * solution.x
            after = operator.evaluate(candidate)
            better = _objective(after, multiplier) > _start(report, multiplier)
            good = ~found & better & torch.isfinite(after.kl)
            chosen, used = torch.where(good, candidate, chosen), torch.where(good, j, used)
            kl = torch.where(good, after.kl, kl)
            found = found | good
            if not extension.asynchronous(chosen.device) and bool(found):
                break
        at_limit = torch.isinf(divisor) if isinstance(divisor, Tensor) else None
        return Proposal(chosen, kl, found, ratio ** used.double() / divisor, used, at_limit)

    return propose


def _objective(measured: Measures, multiplier: Multiplier) -> Tensor:
    """surrogate - lambda KL."""
    return measured.surrogate - multiplier * measured.kl


def _start(report: Report, multiplier: Multiplier) -> Tensor:
    """The objective at the call, whose KL is zero unless the batch says what sampled it."""
    if report.operator.problem.batch.old_params is None:
        return report.before.surrogate
    return _objective(report.before, multiplier)


def _divisor(report: Report, multiplier: Multiplier, quad: Tensor) -> float | Tensor:
    """What divides x in the first trial: lambda, or from a KL of k at the call 1 / (1 / lambda -
    sqrt(2 k / x'Ax)), infinite where the quadratic model has its maximum behind the call.
    """
    if report.operator.problem.batch.old_params is None:
        return multiplier
    length = 1.0 / multiplier - (2.0 * report.before.kl.double().clamp_min(0.0) / quad).sqrt()
    return torch.where(length > 0.0, 1.0 / length, math.inf)


@outside_autocast
@torch.enable_grad()
def adam_proposal(
    report: Report, steps: int, learning_rate: float, multiplier: Multiplier
) -> Proposal:
    """Full-batch Adam on surrogate - lambda KL by autograd; the result counts only if it is finite
    and better.
    """
    problem = report.operator.problem
    batch = problem.batch.tracked().without_padding()
    total = total_weight(batch, report.g.dtype)

    @functools.cache
    def start() -> tuple[Params, Head, Tensor]:
        function = functional_params(problem.policy, batch)
        with torch.no_grad():
            return function, *function(report.operator.theta)

    def gradient(theta: Tensor) -> Tensor:
        function, head, old = start()
        leaf = theta.detach().requires_grad_()
        _, params = function(leaf)
        now = evaluate_rows(
            head,
            batch,
            old,
            params,
            total,
            kl_scale=problem.kl_scale,
            reverse_kl=problem.reverse_kl,
        )
        return torch.autograd.grad(multiplier * now.kl - now.surrogate, leaf)[0]

    def whole(theta: Tensor) -> Tensor:
        return report.operator.summed(lambda: gradient(theta))

    chosen = adam(whole, report.operator.theta, steps, learning_rate)
    after = report.operator.evaluate(chosen)
    better = _objective(after, multiplier) > _start(report, multiplier)
    return Proposal(chosen, after.kl, better & torch.isfinite(after.kl), learning_rate)
