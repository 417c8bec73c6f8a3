"""``kl_penalty_update``: a penalty on the KL in place of a limit; a ``Penalty`` holds its lambda.

    theta <- argmax S(theta) - lambda KL(old || theta),     then lambda moves by the penalty's rule

It is composed from a backend's stages and settled by ``Report``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from .._base import extension
from .._base.choices import Backend, PenaltyInner, PreconditionerKind
from .._base.guards import outside_autocast
from .._base.options import (
    KernelSettings,
    PenaltySettings,
    UpdateOptions,
    UpdateSettings,
)
from ..backends.registry import resolve
from ..core import checks
from ..core.batch import Batch, total_weight
from ..core.modules import functional_params
from ..core.problem import UpdateConfig
from ..core.search_checks import check_search
from ..core.surrogate import Measures, evaluate_rows
from ..policy.flat import mark_written
from .ascent import adam
from .info import UpdateInfo
from .multiplier import PENALTY, Penalty
from .natural import Apply, finish, update_problem
from .report import Report

BLIND_STEP = 100.0  # of lambda, where every step was too long and another turn follows
TOO_LONG = 4.0  # what counts as KL / target_kl where every step was too long


def kl_penalty_update(
    policy: nn.Module,
    batch: Batch,
    penalty: Penalty,
    *,
    inner: PenaltyInner = PenaltySettings.penalty_inner,
    damping: float = UpdateSettings.damping,
    cg_iterations: int = UpdateSettings.cg_iterations,
    cg_tol: float = UpdateSettings.cg_tol,
    cg_gain_tol: float = UpdateSettings.cg_gain_tol,
    preconditioner: PreconditionerKind | Apply | None = UpdateSettings.preconditioner,
    factor_fraction: float = UpdateSettings.factor_fraction,
    backtrack_ratio: float = UpdateSettings.backtrack_ratio,
    backtrack_steps: int = UpdateSettings.backtrack_steps,
    adam_steps: int = PenaltySettings.penalty_adam_steps,
    learning_rate: float = PenaltySettings.penalty_learning_rate,
    rounds: int = PenaltySettings.penalty_rounds,
    tolerance: float = PenaltySettings.penalty_tolerance,
    sync: bool = True,
    backend: Backend = KernelSettings.backend,
    **options: Unpack[UpdateOptions],
) -> UpdateInfo:
    """Maximise surrogate - lambda KL, then move lambda by the penalty's rule.

    ``inner="natural"`` takes the maximiser of the quadratic model, theta + (F + damping I)^-1 g /
    lambda, times ``backtrack_ratio`` until the penalised objective improves. With the batch's
    ``old_params`` the KL is that to the policy which sampled it; from a KL of k at the call the
    model's maximiser along x is 1 / lambda - sqrt(2 k / x'(F + damping I)x) away, and nothing moves
    where that is behind the call (``at_kl_limit``). ``inner="adam"`` takes
    ``adam_steps`` steps of Adam on all rows, with autograd's gradients. lambda is a number on the
    host, so this update waits for the KL unless the rule is "fixed".

    The rule "dual" has the step for lambda and the move of lambda take turns on the batch, at most
    ``rounds`` of them, until the KL is within ``tolerance`` of target_kl, as a share of it. Every
    round begins at the parameters of the call; with "natural" it costs evaluations only.
    """
    way = _Maximisation(inner, adam_steps, learning_rate, rounds, tolerance)
    if not isinstance(penalty, Penalty):
        raise checks.fail("penalty", "a trpo_fast.Penalty", type(penalty).__name__)
    penalty.check()
    search = check_search(
        cg_iterations=cg_iterations,
        cg_tol=cg_tol,
        cg_gain_tol=cg_gain_tol,
        preconditioner=preconditioner,
        factor_fraction=factor_fraction,
        backtrack_ratio=backtrack_ratio,
        backtrack_steps=backtrack_steps,
    )
    problem = update_problem(policy, batch, damping, options, sync, kl_penalty_update)
    chosen = resolve(backend, problem)
    operator = chosen.operator(problem)
    g, before = operator.gradient()
    report = Report(operator, g, before)
    _put_in_place(report, _maximise(report, penalty, way, search))
    mark_written(problem.policy)
    info = finish(problem, chosen.name, report.stats(), sync)
    if penalty.rule != "fixed":
        _move(penalty, info)
    return info


def _move(penalty: Penalty, info: UpdateInfo) -> None:
    """Move lambda by what the update reached."""
    if info.reason in ("accepted", "at_kl_limit"):
        penalty.adjust(info.kl)
    elif info.reason == "line_search_failed":
        penalty.adjust(TOO_LONG * penalty.target_kl)


@dataclass
class _Maximisation:
    """How the penalised objective is maximised: the update's own arguments, checked."""

    inner: PenaltyInner
    adam_steps: int
    learning_rate: float
    rounds: int
    tolerance: float

    def __post_init__(self) -> None:
        for argument, value in vars(self).items():
            setattr(self, argument, PENALTY[f"penalty_{argument}"].check(value, argument))
        if self.inner == "adam" and torch.is_inference_mode_enabled():
            raise checks.fail("inner", "'natural' within torch.inference_mode()", "'adam'")


@dataclass
class _Proposal:
    """Where the penalised objective of some lambda leads from theta at the call."""

    theta: Tensor  # [P]
    kl: Tensor  # 0-d, against the policy that sampled
    found: Tensor  # 0-d bool: finite, and better
    step_size: float | Tensor
    backtracks: Tensor | None = None
    at_limit: Tensor | None = None  # 0-d bool: lambda asks for less KL than the call has

    @property
    def known_kl(self) -> float:
        """The KL that lambda leads to; infinite where every step was too long."""
        known = bool(self.found) or (self.at_limit is not None and bool(self.at_limit))
        return float(self.kl) if known else math.inf


def _maximise(
    report: Report, penalty: Penalty, way: _Maximisation, search: UpdateConfig
) -> _Proposal:
    """The step for the penalty's lambda, or for the one that solves the batch's dual problem."""
    if way.inner == "natural":
        propose = _natural_proposals(report, search)
    else:
        propose = partial(_adam_proposal, report, way.adam_steps, way.learning_rate)
    proposal = propose(penalty.value)
    if penalty.rule == "dual" and bool(report.reason == 0):
        return _alternate(propose, proposal, penalty, way)
    return proposal


def _alternate(
    propose: Callable[[float], _Proposal],
    proposal: _Proposal,
    penalty: Penalty,
    way: _Maximisation,
) -> _Proposal:
    """theta and lambda in turns on one batch: the proposal whose KL came nearest target_kl.

    The KL falls with lambda. A step of lambda beyond one whose KL was already seen on that side of
    target_kl is replaced by the middle, in log lambda, of the nearest two.
    """
    best, least = proposal, math.inf
    low, high = penalty.min_value, penalty.max_value
    for turn in range(way.rounds):
        kl = proposal.known_kl
        distance = abs(kl / penalty.target_kl - 1.0)
        if distance < least:
            best, least = proposal, distance
        if least <= way.tolerance or turn == way.rounds - 1:
            break
        tried = penalty.value
        low, high = (tried, high) if kl > penalty.target_kl else (low, tried)
        if math.isfinite(kl):
            penalty.adjust(kl)
        else:  # every step was too long: nothing is known of how far off lambda is
            penalty.value = min(BLIND_STEP * penalty.value, penalty.max_value)
        if not low < penalty.value < high:
            penalty.value = math.sqrt(low * high)
        if penalty.value in (tried, low, high):  # at its bounds, or nothing lies between
            break
        proposal = propose(penalty.value)
    return best


def _put_in_place(report: Report, proposal: _Proposal) -> None:
    """Put a proposal in place, or say that none was found."""
    if proposal.at_limit is not None:
        report.fail("at_kl_limit", proposal.at_limit)
    report.fail("line_search_failed", ~proposal.found)
    if proposal.backtracks is None:
        report.propose(proposal.theta, proposal.step_size)
        return
    report.values["backtracks"] = proposal.backtracks
    report.write(proposal.theta, proposal.step_size)


def _natural_proposals(report: Report, search: UpdateConfig) -> Callable[[float], _Proposal]:
    """Solve for x = (F + damping I)^-1 g once; each lambda then searches along x / lambda."""
    operator, ratio, steps = report.operator, search.backtrack_ratio, search.backtrack_steps
    solution = operator.solve(report.g, search.cg)
    finite = torch.isfinite(solution.x).all() & torch.isfinite(solution.first_curvature)
    report.fail("non_finite", ~finite)
    report.fail("negative_curvature", solution.first_curvature <= 0)
    report.values |= solution.statistics()

    def propose(multiplier: float) -> _Proposal:
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
        return _Proposal(chosen, kl, found, ratio ** used.double() / divisor, used, at_limit)

    return propose


def _objective(measured: Measures, multiplier: float) -> Tensor:
    """surrogate - lambda KL."""
    return measured.surrogate - multiplier * measured.kl


def _start(report: Report, multiplier: float) -> Tensor:
    """The objective at the call, whose KL is zero unless the batch says what sampled it."""
    if report.operator.problem.batch.old_params is None:
        return report.before.surrogate
    return _objective(report.before, multiplier)


def _divisor(report: Report, multiplier: float, quad: Tensor) -> float | Tensor:
    """What divides x in the first trial: lambda, or from a KL of k at the call 1 / (1 / lambda -
    sqrt(2 k / x'Ax)), infinite where the quadratic model has its maximum behind the call.
    """
    if report.operator.problem.batch.old_params is None:
        return multiplier
    length = 1.0 / multiplier - (2.0 * report.before.kl.double().clamp_min(0.0) / quad).sqrt()
    return torch.where(length > 0.0, 1.0 / length, math.inf)


@outside_autocast
@torch.enable_grad()
def _adam_proposal(
    report: Report, steps: int, learning_rate: float, multiplier: float
) -> _Proposal:
    """Full-batch Adam on surrogate - lambda KL by autograd; the result counts only if it is finite
    and better.
    """
    problem = report.operator.problem
    batch = problem.batch.tracked().without_padding()
    function = functional_params(problem.policy, batch)
    total = total_weight(batch, report.g.dtype)
    with torch.no_grad():
        head, old = function(report.operator.theta)

    def gradient(theta: Tensor) -> Tensor:
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

    chosen = adam(gradient, report.operator.theta, steps, learning_rate)
    after = report.operator.evaluate(chosen)
    better = _objective(after, multiplier) > _start(report, multiplier)
    return _Proposal(chosen, after.kl, better & torch.isfinite(after.kl), learning_rate)
