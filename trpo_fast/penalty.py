"""The first-order and penalised updates: plain policy gradient, and surrogate - lambda KL.

They are composed from a backend's stages; ``_Report`` keeps the promise that a step which is not
accepted leaves every bit of the parameters as it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import _native, checks
from .backend import REASONS, STATS, Operator, Problem, resolve
from .guards import outside_autocast, uninterrupted
from .module_function import functional_params
from .policy import mark_written, trainable
from .surrogate import Batch, Evaluation, evaluate_rows, total_weight
from .update import UpdateInfo, finish, update_problem


@dataclass
class Penalty:
    """The multiplier lambda of ``kl_penalty_update``; pass the same object to every update, save it
    with the policy.

    fixed      lambda stays
    adaptive   doubles when KL > 1.5 target_kl, halves when KL < target_kl / 1.5
    dual       ascent on the dual: lambda <- lambda + rate (KL - target_kl) / target_kl

    lambda stays within [least, most].
    """

    value: float = 1.0
    rule: str = "adaptive"
    target_kl: float = 0.01
    rate: float = 0.1
    least: float = 1e-6
    most: float = 1e6

    def __post_init__(self) -> None:
        checks.check_choice("rule", self.rule, ("fixed", "adaptive", "dual"))
        checks.check_number("value", self.value, above=0.0)
        checks.check_number("target_kl", self.target_kl, above=0.0)
        checks.check_number("rate", self.rate, above=0.0)

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
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.value = checks.check_number("value", state["value"], above=0.0)


def kl_penalty_update(
    policy: nn.Module,
    batch: Batch,
    penalty: Penalty,
    *,
    inner: str = "natural",
    damping: float = 0.1,
    cg_iterations: int = 10,
    cg_tol: float = 0.0,
    backtrack_ratio: float = 0.5,
    backtrack_steps: int = 10,
    adam_steps: int = 20,
    learning_rate: float = 3e-4,
    sync: bool = True,
    backend: str = "auto",
    **options: Any,
) -> UpdateInfo:
    """Maximise surrogate - lambda KL, then move lambda by the penalty's rule.

    ``inner="natural"`` takes the maximiser of the quadratic model, theta + (F + damping I)^-1 g /
    lambda, halving it until the penalised objective improves; ``inner="adam"`` takes ``adam_steps``
    full-batch Adam steps on it, whose gradients are autograd's whatever the backend, which judges
    the result. lambda is a number on the host, so this update waits for the KL unless the rule is
    "fixed".
    """
    checks.check_choice("inner", inner, ("natural", "adam"))
    if not isinstance(penalty, Penalty):
        raise checks.fail("penalty", "a trpo_fast.Penalty", type(penalty).__name__)
    if inner == "adam" and torch.is_inference_mode_enabled():
        raise checks.fail("inner", "'natural' within torch.inference_mode()", "'adam'")
    checks.check_count("cg_iterations", cg_iterations)
    checks.check_count("adam_steps", adam_steps)
    checks.check_count("backtrack_steps", backtrack_steps)
    checks.check_number("cg_tol", cg_tol, least=0.0, below=1.0)
    checks.check_number("backtrack_ratio", backtrack_ratio, above=0.0, below=1.0)
    checks.check_number("learning_rate", learning_rate, above=0.0)
    problem = update_problem(policy, batch, damping, options, sync)
    chosen = resolve(backend, problem)
    operator = chosen.operator(problem)
    g, before = operator.gradient()
    report = _Report(operator, g, before)
    if inner == "natural":
        _penalised_natural(
            report, penalty.value, cg_iterations, cg_tol, backtrack_ratio, backtrack_steps
        )
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
    learning_rate: float = 1e-2,
    max_grad_norm: float | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    sync: bool = True,
    backend: str = "auto",
    **options: Any,
) -> UpdateInfo:
    """Plain policy gradient: theta <- theta + learning_rate g, or one step of ``optimizer`` on the
    policy's parameters.

    A gradient that no update can use reaches the optimiser as zeros: NaN would stay in its moments.
    """
    checks.check_number("learning_rate", learning_rate, above=0.0)
    if max_grad_norm is not None:
        checks.check_number("max_grad_norm", max_grad_norm, above=0.0)
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


def _penalised_natural(
    report: _Report, multiplier: float, iterations: int, tol: float, ratio: float, steps: int
) -> None:
    operator = report.operator
    solution = operator.solve(report.g, iterations, tol)
    finite = torch.isfinite(solution.x).all() & torch.isfinite(solution.first_curvature)
    report.fail("non_finite", ~finite)
    report.fail("negative_curvature", solution.first_curvature <= 0)
    report.values["quad"] = solution.quad
    report.values["cg_residual"] = solution.residual_norm
    report.values["cg_iterations"] = solution.iterations
    found = torch.zeros((), dtype=torch.bool, device=report.g.device)
    chosen, used = operator.theta, torch.full((), steps, device=report.g.device)
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
    """Where the optimiser would go; the policy's parameters are put back until the step is
    accepted, and the caller's gradients for good.
    """
    before, parameters, offset = problem.theta.clone(), trainable(policy), 0
    gradients = [p.grad for p in parameters]
    try:
        for p in parameters:
            p.grad = -g[offset : offset + p.numel()].view_as(p)
            offset += p.numel()
        optimizer.step()
        return problem.theta.clone()
    finally:
        problem.theta.copy_(before)
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
