"""``pg_update``: the plain policy gradient, as a step of its own or one of the caller's optimiser.

theta <- theta + learning_rate g
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from .._base.choices import Backend
from .._base.guards import uninterrupted
from .._base.options import (
    GradientSettings,
    KernelSettings,
    UpdateOptions,
)
from ..backends.registry import resolve
from ..core import checks
from ..core.batch import Batch
from ..core.problem import Problem
from ..policy.flat import mark_written, trainable
from .info import UpdateInfo
from .natural import GRADIENT, finish, update_problem
from .recorded import run_update
from .report import Report


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
    settings = (learning_rate, max_grad_norm)
    problem = update_problem(policy, batch, 0.0, options, sync, pg_update, settings)
    if optimizer is not None:
        checks.check_optimizer(policy, optimizer)
    chosen = resolve(backend, problem)

    def update(given: Problem) -> Tensor:
        operator = chosen.operator(given)
        g, before = operator.gradient()
        if max_grad_norm is not None:
            g = g * (max_grad_norm / g.norm().clamp_min(max_grad_norm))
        report = Report(operator, g, before)
        if optimizer is None:
            report.propose(operator.theta + learning_rate * g, learning_rate)
        else:
            usable = torch.where(report.reason == 0, g, 0.0)
            report.propose(
                operator.agreed(g, lambda: _optimizer_step(given.policy, given, usable, optimizer)),
                1.0,
            )
        return report.stats()

    stats, captured = run_update(
        problem,
        chosen,
        "pg_update",
        settings,
        update,
        unrecordable="an optimiser of the caller's takes the step" * (optimizer is not None),
    )
    mark_written(problem.policy)
    return finish(problem, chosen.name, stats, sync, captured)


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
