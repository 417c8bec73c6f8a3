"""``kl_penalty_update``: a penalty on the KL in place of a limit; ``Penalty`` holds its lambda.

    theta <- argmax S(theta) - lambda KL(old || theta),     then lambda moves by the penalty's rule

It is composed from a backend's stages and settled by ``Report``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from typing_extensions import Unpack

from .._base import extension
from .._base.choices import Backend, PenaltyInner, PenaltyRule
from .._base.guards import outside_autocast
from .._base.options import (
    KernelSettings,
    PenaltySettings,
    UpdateOptions,
    UpdateSettings,
)
from .._base.settings import declared
from ..backends.registry import resolve
from ..core import checks
from ..core.batch import Batch, total_weight
from ..core.modules import functional_params
from ..core.problem import UpdateConfig
from ..core.surrogate import evaluate_rows
from ..policy.flat import mark_written
from .info import UpdateInfo
from .natural import finish, update_problem
from .report import Report

PENALTY = declared(PenaltySettings)


@dataclass
class Penalty:
    """The multiplier lambda of ``kl_penalty_update``; pass the same object to every update, save it
    with the policy.

    fixed      lambda stays
    adaptive   doubles when KL > 1.5 target_kl, halves when KL < target_kl / 1.5
    dual       ascent on the dual: lambda <- lambda + rate (KL - target_kl) / target_kl

    Both move lambda once an update, not to the solution of that batch's dual: the first updates' KL
    may be far from target_kl. ``dual`` goes down by at most ``rate`` and up by rate KL / target_kl:
    choose a fraction of the lambda that is expected. lambda stays within [min_value, max_value].
    """

    value: float = PenaltySettings.penalty
    rule: PenaltyRule = PenaltySettings.penalty_rule
    target_kl: float = UpdateSettings.max_kl
    rate: float = PenaltySettings.penalty_rate
    min_value: float = PenaltySettings.penalty_min
    max_value: float = PenaltySettings.penalty_max

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise ``ValueError`` for the first field that is out of its range."""
        self.value = PENALTY["penalty"].check(self.value, "value")
        self.rule = PENALTY["penalty_rule"].check(self.rule, "rule")
        self.target_kl = checks.UPDATE["max_kl"].check(self.target_kl, "target_kl")
        self.rate = PENALTY["penalty_rate"].check(self.rate, "rate")
        self.min_value = PENALTY["penalty_min"].check(self.min_value, "min_value")
        self.max_value = PENALTY["penalty_max"].check(self.max_value, "max_value")
        checks.check_number("max_value", self.max_value, least=self.min_value)

    def adjust(self, kl: float) -> None:
        """Move lambda after an update that reached this KL."""
        if not math.isfinite(kl):
            return
        if self.rule == "adaptive" and kl > 1.5 * self.target_kl:
            self.value *= 2.0
        elif self.rule == "adaptive" and kl < self.target_kl / 1.5:
            self.value /= 2.0
        elif self.rule == "dual":
            self.value += self.rate * (kl - self.target_kl) / self.target_kl
        self.value = min(max(self.value, self.min_value), self.max_value)

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps: lambda."""
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on with the lambda of ``state_dict``."""
        self.value = PENALTY["penalty"].check(state["value"], "value")


def kl_penalty_update(
    policy: nn.Module,
    batch: Batch,
    penalty: Penalty,
    *,
    inner: PenaltyInner = PenaltySettings.penalty_inner,
    damping: float = UpdateSettings.damping,
    cg_iterations: int = UpdateSettings.cg_iterations,
    cg_tol: float = UpdateSettings.cg_tol,
    backtrack_ratio: float = UpdateSettings.backtrack_ratio,
    backtrack_steps: int = UpdateSettings.backtrack_steps,
    adam_steps: int = PenaltySettings.penalty_adam_steps,
    learning_rate: float = PenaltySettings.penalty_learning_rate,
    sync: bool = True,
    backend: Backend = KernelSettings.backend,
    **options: Unpack[UpdateOptions],
) -> UpdateInfo:
    """Maximise surrogate - lambda KL, then move lambda by the penalty's rule.

    ``inner="natural"`` takes the maximiser of the quadratic model, theta + (F + damping I)^-1 g /
    lambda, times ``backtrack_ratio`` until the penalised objective improves; ``inner="adam"`` takes
    ``adam_steps`` steps of Adam on all rows, with autograd's gradients, and the backend computes KL
    and surrogate of where they lead. lambda is a number on the host, so this update waits for the
    KL unless the rule is "fixed".
    """
    PENALTY["penalty_inner"].check(inner, "inner")
    if not isinstance(penalty, Penalty):
        raise checks.fail("penalty", "a trpo_fast.Penalty", type(penalty).__name__)
    if inner == "adam" and torch.is_inference_mode_enabled():
        raise checks.fail("inner", "'natural' within torch.inference_mode()", "'adam'")
    penalty.check()
    search = checks.check_search(
        cg_iterations=cg_iterations,
        cg_tol=cg_tol,
        backtrack_ratio=backtrack_ratio,
        backtrack_steps=backtrack_steps,
    )
    adam_steps = PENALTY["penalty_adam_steps"].check(adam_steps, "adam_steps")
    learning_rate = PENALTY["penalty_learning_rate"].check(learning_rate, "learning_rate")
    problem = update_problem(policy, batch, damping, options, sync, kl_penalty_update)
    chosen = resolve(backend, problem)
    operator = chosen.operator(problem)
    g, before = operator.gradient()
    report = Report(operator, g, before)
    if inner == "natural":
        _penalised_natural(report, penalty.value, search)
    else:
        _penalised_adam(report, penalty.value, adam_steps, learning_rate)
    mark_written(problem.policy)
    stats = report.stats()
    info = finish(problem, UpdateInfo(chosen.name, stats), sync)
    if penalty.rule != "fixed" and info.accepted:
        penalty.adjust(info.kl)
    elif penalty.rule != "fixed" and info.reason == "line_search_failed":
        penalty.adjust(2.0 * penalty.target_kl)  # every step was too long
    return info


def _penalised_natural(report: Report, multiplier: float, search: UpdateConfig) -> None:
    operator, ratio, steps = report.operator, search.backtrack_ratio, search.backtrack_steps
    solution = operator.solve(report.g, search.cg_iterations, search.cg_tol)
    finite = torch.isfinite(solution.x).all() & torch.isfinite(solution.first_curvature)
    report.fail("non_finite", ~finite)
    report.fail("negative_curvature", solution.first_curvature <= 0)
    report.values["quad"] = solution.quad
    report.values["cg_residual"] = solution.residual_norm
    report.values["cg_iterations"] = solution.iterations
    found = torch.zeros((), dtype=torch.bool, device=report.g.device)
    chosen, used = operator.theta, torch.full((), steps, dtype=torch.int64, device=report.g.device)
    for j in range(steps):
        candidate = operator.theta + (ratio**j / multiplier) * solution.x
        after = operator.evaluate(candidate)
        better = after.surrogate - multiplier * after.kl > report.before.surrogate
        good = ~found & better & torch.isfinite(after.kl)
        chosen, used = torch.where(good, candidate, chosen), torch.where(good, j, used)
        found = found | good
        if not extension.asynchronous(chosen.device) and bool(found):
            break
    report.fail("line_search_failed", ~found)
    report.values["backtracks"] = used
    report.write(chosen, ratio ** used.double() / multiplier)


@outside_autocast
@torch.enable_grad()
def _penalised_adam(report: Report, multiplier: float, steps: int, learning_rate: float) -> None:
    """Full-batch Adam on surrogate - lambda KL by autograd; the result counts only if it is finite
    and better.
    """
    problem = report.operator.problem
    batch = problem.batch.tracked().without_padding()
    function = functional_params(problem.policy, batch)
    total = total_weight(batch, report.g.dtype)
    with torch.no_grad():
        head, old = function(report.operator.theta)
    theta = report.operator.theta.clone().requires_grad_()
    adam = torch.optim.Adam([theta], lr=learning_rate)
    for _ in range(steps):
        _, params = function(theta)
        now = evaluate_rows(
            head,
            batch,
            old,
            params,
            total,
            kl_scale=problem.kl_scale,
            reverse_kl=problem.reverse_kl,
        )
        (theta.grad,) = torch.autograd.grad(multiplier * now.kl - now.surrogate, theta)
        adam.step()
    chosen = theta.detach()
    after = report.operator.evaluate(chosen)
    better = after.surrogate - multiplier * after.kl > report.before.surrogate
    report.fail("line_search_failed", ~better | ~torch.isfinite(after.kl))
    report.propose(chosen, learning_rate)
