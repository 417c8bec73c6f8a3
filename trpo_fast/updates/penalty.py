"""``kl_penalty_update``: a penalty on the KL in place of a limit; a ``Penalty`` holds its lambda.

    theta <- argmax S(theta) - lambda KL(old || theta),     then lambda moves by the penalty's rule

It is composed from a backend's stages and settled by ``Report``.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import partial

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from .._base.choices import Backend, PenaltyInner, PreconditionerKind
from .._base.options import (
    KernelSettings,
    PenaltySettings,
    UpdateOptions,
    UpdateSettings,
)
from .._base.reads import may_read
from ..backends.base import Backend as Computing
from ..backends.registry import resolve
from ..core import checks
from ..core.batch import Batch
from ..core.problem import REASONS, Problem, UpdateConfig
from ..core.search_checks import check_search
from ..policy.flat import mark_written
from .dual import alternate, alternate_ahead
from .info import UpdateInfo
from .multiplier import PENALTY, Penalty, adjusted, lambda_on
from .natural import Apply, finish, update_problem
from .proposals import Multiplier, Proposal, adam_proposal, natural_proposals
from .recorded import filled, own_code, run_update
from .report import Report

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
    ``adam_steps`` steps of Adam on all rows, with autograd's gradients. On a device lambda moves
    there, and nothing waits until ``penalty.value`` or a number of the result is read.

    The rule "dual" has the step for lambda and the move of lambda take turns on the batch, at most
    ``rounds`` of them, until the KL is within ``tolerance`` of target_kl, as a share of it. Every
    round begins at the parameters of the call; with "natural" it costs evaluations only. On a
    device every round is computed, and those that are not needed change nothing.
    """
    way = _Maximisation(inner, adam_steps, learning_rate, rounds, tolerance)
    _check(penalty)
    search = check_search(
        cg_iterations=cg_iterations,
        cg_tol=cg_tol,
        cg_gain_tol=cg_gain_tol,
        preconditioner=preconditioner,
        factor_fraction=factor_fraction,
        backtrack_ratio=backtrack_ratio,
        backtrack_steps=backtrack_steps,
    )
    settings = (penalty, astuple(way), search)
    problem = update_problem(policy, batch, damping, options, sync, kl_penalty_update, settings)
    chosen = resolve(backend, problem)
    (stats, multiplier), captured = _run(problem, chosen, penalty, way, search)
    mark_written(problem.policy)
    info = finish(problem, chosen.name, stats, sync, captured)
    if isinstance(multiplier, Tensor):
        penalty.value = multiplier
    elif penalty.rule != "fixed":
        _move(penalty, info)
    return info


def _check(penalty: Penalty) -> None:
    if not isinstance(penalty, Penalty):
        raise checks.fail("penalty", "a trpo_fast.Penalty", type(penalty).__name__)
    penalty.check()


def _moved(penalty: Penalty, report: Report, multiplier: Tensor, target_kl: Tensor) -> Tensor:
    """Where ``_move`` takes a lambda that is on a device, all of it 0-d float64."""
    reached = adjusted(penalty, multiplier, report.after.kl.double(), target_kl)
    further = adjusted(penalty, multiplier, TOO_LONG * target_kl, target_kl)
    settled = (report.reason == 0) | (report.reason == REASONS.index("at_kl_limit"))
    moved = torch.where(settled, reached, multiplier)
    return torch.where(report.reason == REASONS.index("line_search_failed"), further, moved)


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


def _run(
    problem: Problem,
    chosen: Computing,
    penalty: Penalty,
    way: _Maximisation,
    search: UpdateConfig,
) -> tuple[tuple[Tensor, Multiplier], bool]:
    """The update's statistics and the lambda that follows, where it is on a device; and whether
    they came from a replay.
    """

    def update(
        given: Problem, multiplier: Multiplier, target_kl: Multiplier
    ) -> tuple[Tensor, Multiplier]:
        operator = chosen.operator(given)
        g, before = operator.gradient()
        report = Report(operator, g, before)
        proposal, multiplier = _maximise(report, penalty, multiplier, target_kl, way, search)
        _put_in_place(report, proposal)
        if isinstance(multiplier, Tensor):
            assert isinstance(target_kl, Tensor)
            multiplier = _moved(penalty, report, multiplier, target_kl)
        return report.stats(), multiplier

    theta = problem.theta
    numbers: tuple[Multiplier, Multiplier] = (lambda_on(penalty, theta), penalty.target_kl)
    if not may_read(theta.device):
        numbers = (filled(numbers[0], theta), filled(numbers[1], theta))
    rule = (penalty.rule, penalty.rate, penalty.min_value, penalty.max_value)
    return run_update(
        problem,
        chosen,
        "kl_penalty_update",
        (astuple(way), search, rule),
        update,
        *numbers,
        unrecordable=own_code(search.cg),
    )


def _maximise(
    report: Report,
    penalty: Penalty,
    multiplier: Multiplier,
    target_kl: Multiplier,
    way: _Maximisation,
    search: UpdateConfig,
) -> tuple[Proposal, Multiplier]:
    """The step for this multiplier, the penalty's lambda, or for the lambda that solves the batch's
    dual problem; and lambda, which only that moves.
    """
    if way.inner == "natural":
        propose = natural_proposals(report, search)
    else:
        propose = partial(adam_proposal, report, way.adam_steps, way.learning_rate)
    proposal = propose(multiplier)
    if penalty.rule != "dual":
        return proposal, multiplier
    going, turns = report.reason == 0, (way.rounds, way.tolerance)
    if isinstance(multiplier, Tensor):
        assert isinstance(target_kl, Tensor)
        return alternate_ahead(propose, proposal, penalty, multiplier, target_kl, going, *turns)
    if bool(going):
        proposal = alternate(propose, proposal, penalty, *turns)
    return proposal, penalty.value


def _put_in_place(report: Report, proposal: Proposal) -> None:
    """Put a proposal in place, or say that none was found."""
    if proposal.at_limit is not None:
        report.fail("at_kl_limit", proposal.at_limit)
    report.fail("line_search_failed", ~proposal.found)
    if proposal.backtracks is None:
        report.propose(proposal.theta, proposal.step_size)
        return
    report.values["backtracks"] = proposal.backtracks
    report.write(proposal.theta, proposal.step_size)
