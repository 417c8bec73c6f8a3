"""The first-order and penalised updates: plain policy gradient, and surrogate - lambda KL.

They are composed from a backend's stages; ``_Report`` keeps the promise that a step which is not
accepted leaves every bit of the parameters as it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from .._base import extension as _native
from .._base.choices import Backend, PenaltyInner, PenaltyRule
from .._base.guards import outside_autocast, uninterrupted
from .._base.options import (
    GradientSettings,
    KernelSettings,
    PenaltySettings,
    UpdateOptions,
    UpdateSettings,
)
from .._base.settings import declared
from ..core import checks
from ..core.modules import functional_params
from ..core.problem import REASONS, STATS, Operator, Problem, UpdateConfig, resolve
from ..core.surrogate import Batch, Evaluation, evaluate_rows, total_weight
from ..policy.net import mark_written, trainable
from .natural import GRADIENT, UpdateInfo, finish, update_problem

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
    choose a fraction of the lambda that is expected. lambda stays within [least, most].
    """

    value: float = PenaltySettings.penalty
    rule: PenaltyRule = PenaltySettings.penalty_rule
    target_kl: float = UpdateSettings.max_kl
    rate: float = PenaltySettings.penalty_rate
    least: float = PenaltySettings.penalty_least
    most: float = PenaltySettings.penalty_most

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise ``ValueError`` for the first field that is out of its range."""
        self.value = PENALTY["penalty"].check(self.value, "value")
        self.rule = PENALTY["penalty_rule"].check(self.rule, "rule")
        self.target_kl = checks.UPDATE["max_kl"].check(self.target_kl, "target_kl")
        self.rate = PENALTY["penalty_rate"].check(self.rate, "rate")
        self.least = PENALTY["penalty_least"].check(self.least, "least")
        self.most = PENALTY["penalty_most"].check(self.most, "most")
        checks.check_number("most", self.most, least=self.least)

    def observe(self, kl: float) -> None:
        """Move lambda after an update that reached this KL."""
        if not math.isfinite(kl):
            return
        if self.rule == "adaptive" and kl > 1.5 * self.target_kl:
            self.value *= 2.0
        elif self.rule == "adaptive" and kl < self.target_kl / 1.5:
            self.value /= 2.0
        elif self.rule == "dual":
            self.value += self.rate * (kl - self.target_kl) / self.target_kl
        self.value = min(max(self.value, self.least), self.most)

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
    problem = update_problem(policy, batch, damping, options, sync)
    chosen = resolve(backend, problem)
    operator = chosen.operator(problem)
    g, before = operator.gradient()
    report = _Report(operator, g, before)
    if inner == "natural":
        _penalised_natural(report, penalty.value, search)
    else:
        _penalised_adam(report, penalty.value, adam_steps, learning_rate)
    mark_written(problem.policy)
    info = finish(problem, UpdateInfo(chosen.name, report.stats()), sync)
    if penalty.rule != "fixed" and info.accepted:
        penalty.observe(info.kl)
    elif penalty.rule != "fixed" and info.reason == "line_search_failed":
        penalty.observe(2.0 * penalty.target_kl)  # every step was too long
    return info


def pg_update(
    policy: nn.Module,
    batch: Batch,
    *,
    learning_rate: float = GradientSettings.pg_learning_rate,
    max_grad_norm: float | None = GradientSettings.pg_max_grad_norm,
    optimizer: torch.optim.Optimizer | None = None,
    sync: bool = True,
    backend: Backend = KernelSettings.backend,
    **options: Unpack[UpdateOptions],
) -> UpdateInfo:
    """Plain policy gradient: theta <- theta + learning_rate g, or one step of ``optimizer`` on the
    policy's parameters.

    Other parameters of the optimiser stay, whatever their gradients. A gradient that no update can
    use reaches the optimiser as zeros: NaN would stay in its moments.
    """
    learning_rate = GRADIENT["pg_learning_rate"].check(learning_rate, "learning_rate")
    max_grad_norm = GRADIENT["pg_max_grad_norm"].check(max_grad_norm, "max_grad_norm")
    problem = update_problem(policy, batch, 0.0, options, sync)
    if optimizer is not None:
        checks.check_optimizer(policy, optimizer)
    chosen = resolve(backend, problem)
    operator = chosen.operator(problem)
    g, before = operator.gradient()
    if max_grad_norm is not None:
        g = g * (max_grad_norm / g.norm().clamp_min(max_grad_norm))
    report = _Report(operator, g, before)
    if optimizer is None:
        report.propose(operator.theta + learning_rate * g, learning_rate)
    else:
        usable = torch.where(report.reason == 0, g, 0.0)
        report.propose(_optimizer_step(problem.policy, problem, usable, optimizer), 1.0)
    mark_written(problem.policy)
    return finish(problem, UpdateInfo(chosen.name, report.stats()), sync)


class _Report:
    """Statistics of an update composed from stages; writes theta once a proposal is accepted."""

    def __init__(self, operator: Operator, g: Tensor, before: Evaluation) -> None:
        self.operator, self.g, self.before = operator, g, before
        self.after = before
        zero = torch.zeros((), dtype=torch.float64, device=g.device)
        self.values = {name: zero for name in STATS}
        self.values["gradient_norm"] = g.double().norm()
        reason = torch.where((g == 0).all(), REASONS.index("zero_gradient"), 0)
        reason = torch.where(torch.isfinite(g).all(), reason, REASONS.index("non_finite"))
        self.reason = torch.where(operator.bad_values(), REASONS.index("bad_values"), reason)

    def fail(self, reason: str, where: Tensor) -> None:
        """Record a reason unless a worse one stands."""
        self.reason = torch.where((self.reason == 0) & where, REASONS.index(reason), self.reason)

    def propose(self, theta: Tensor, step_size: float | Tensor) -> None:
        """Take theta if nothing has failed and the policy it gives is finite."""
        after = self.operator.evaluate(theta)
        finite = (
            torch.isfinite(theta).all() & torch.isfinite(after.kl) & torch.isfinite(after.surrogate)
        )
        self.fail("non_finite", ~finite)
        self.settle(theta, step_size)

    def settle(self, theta: Tensor, step_size: float | Tensor) -> None:
        accepted = self.reason == 0
        theta = torch.where(accepted, theta, self.operator.theta)
        self.after = self.operator.evaluate(theta)
        self.operator.problem.theta.copy_(theta)
        if not isinstance(step_size, Tensor):  # filled on the device: a copy to it would wait
            step_size = torch.full_like(self.values["gradient_norm"], step_size)
        self.values["step_size"] = torch.where(accepted, step_size.double(), 0.0)

    def stats(self) -> Tensor:
        values = dict(self.values)
        values["reason"] = self.reason
        values["kl"], values["max_state_kl"] = self.after.kl, self.after.max_kl
        values["surrogate_before"] = self.before.surrogate
        values["surrogate_after"] = self.after.surrogate
        values["entropy"] = self.after.entropy
        return torch.stack([values[name].double() for name in STATS])


def _penalised_natural(report: _Report, multiplier: float, search: UpdateConfig) -> None:
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
        if not _native.asynchronous(chosen.device) and bool(found):
            break
    report.fail("line_search_failed", ~found)
    report.values["backtracks"] = used
    report.settle(chosen, ratio ** used.double() / multiplier)


@outside_autocast
@torch.enable_grad()
def _penalised_adam(report: _Report, multiplier: float, steps: int, learning_rate: float) -> None:
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


@uninterrupted
def _optimizer_step(
    policy: nn.Module, problem: Problem, g: Tensor, optimizer: torch.optim.Optimizer
) -> Tensor:
    """Where the optimiser would take the policy [P]. The parameters are put back where they lay
    until the step is accepted; the caller's gradients, which it does not see, for good.
    """
    before, parameters, offset = problem.theta.clone(), trainable(policy), 0
    held = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [(p, p.grad) for p in (*held, *parameters)]
    memory = [p.detach() for p in parameters]
    try:
        for p in held:
            p.grad = None
        for p in parameters:
            p.grad = -g[offset : offset + p.numel()].view_as(p)
            offset += p.numel()
        optimizer.step()
        found = torch.cat([p.detach().reshape(-1) for p in parameters]).to(before)
        if found.shape != before.shape:
            raise checks.fail("optimizer", "a step that keeps the policy's size", "another size")
        return found
    finally:
        for p, lay in zip(parameters, memory, strict=True):
            if (p.data_ptr(), p.stride()) != (lay.data_ptr(), lay.stride()):
                p.data = lay
        problem.theta.copy_(before)
        for p, gradient in gradients:
            p.grad = gradient
