"""``rat_update``: the natural gradient as a plain policy gradient of transformed advantages, found
by a direct solve among the rows (Sun, Randomized Advantage Transformation, arXiv:2605.18591).

With m rows, W their weight, c the factor of ``kl_reduction`` and q_n the derivative of the
surrogate over these rows in log pi(a_n | s_n), w_n rho_n A_n / W where rows are not grouped:

    H_n = sqrt(c w_n / W) d log pi(a_n | s_n) / d theta,    a_n = q_n / sqrt(c w_n / W)

so that F = H'H [P, P] is the rows' empirical Fisher matrix and H'a their gradient. The gradient of
all rows is g = H'a + d, d = 0 where the m rows are all. By Woodbury

    (F + damping I)^-1 g = H'y + d / damping,    (H H' + damping I) y = a - H d / damping

where H'y is the gradient of plain policy gradient with y in place of a. The paper approaches y by
random blocks of rows; here it is exact, from one Cholesky factor of an [m, m] matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from .._base.choices import Backend
from .._base.guards import outside_autocast
from .._base.options import KernelSettings, RatSettings, UpdateOptions, UpdateSettings
from .._base.rows import one_tensor
from .._base.settings import declared
from ..backends.registry import resolve
from ..core import checks
from ..core.batch import Batch, normalised_weights, total_weight
from ..core.cg import dot
from ..core.gram import gram
from ..core.problem import Problem, UpdateConfig
from ..core.reference import forward, jvp, line_search, vjp
from ..core.search_checks import check_search
from ..core.surrogate import surrogate
from ..policy.flat import mark_written
from ..policy.net import MLPPolicy
from .info import UpdateInfo
from .natural import finish, update_problem
from .recorded import run_update
from .report import Report

RAT = declared(RatSettings)


def rat_update(
    policy: nn.Module,
    batch: Batch,
    *,
    max_kl: float = UpdateSettings.max_kl,
    damping: float = UpdateSettings.damping,
    max_rows: int = RatSettings.rat_max_rows,
    backtrack_ratio: float = UpdateSettings.backtrack_ratio,
    backtrack_steps: int = UpdateSettings.backtrack_steps,
    sync: bool = True,
    backend: Backend = KernelSettings.backend,
    **options: Unpack[UpdateOptions],
) -> UpdateInfo:
    """``trpo_update`` with an exact x = (F + damping I)^-1 g, F the empirical Fisher matrix of at
    most ``max_rows`` rows.

    The rows are those of ``fvp_rows``, by default all; of more than ``max_rows`` every so many is
    taken. Gradient, KL and surrogate are of all rows, by the ``backend``; the solve itself is
    PyTorch on the policy's device. For an ``MLPPolicy`` as it comes. ``fisher`` and ``precision``
    have no say. Without damping a part of the rows is ``non_finite``, and a matrix that has no
    Cholesky factor ``negative_curvature``.
    """
    search = check_search(
        max_kl=max_kl, backtrack_ratio=backtrack_ratio, backtrack_steps=backtrack_steps
    )
    problem = rat_problem(policy, batch, damping, max_rows, options, sync)
    chosen = resolve(backend, problem)

    def update(given: Problem, limit: float | Tensor) -> Tensor:
        operator = chosen.operator(given)
        g, before = operator.gradient()
        report = Report(operator, g, before)
        _take(report, direct_solve(given, g), replace(search, max_kl=limit))
        return report.stats()

    try:
        rest = replace(search, max_kl=0.0)
        stats, captured = run_update(problem, chosen, "rat_update", rest, update, search.max_kl)
    finally:  # Ctrl-C may come right after the write
        mark_written(problem.policy)
    return finish(problem, chosen.name, stats, sync, captured)


def rat_problem(
    policy: nn.Module,
    batch: Batch,
    damping: float,
    max_rows: int,
    options: UpdateOptions,
    sync: bool,
) -> Problem:
    """The checked problem of ``rat_update``; its ``fvp_rows`` are those of the solve. Its backend
    is asked for no product, so that the kernels serve whatever ``fisher`` says.
    """
    max_rows = RAT["rat_max_rows"].check(max_rows, "max_rows")
    if options.get("group") is not None:
        alone = "None (rat_update needs all rows in one process; trpo_update takes a group)"
        raise checks.fail("group", alone, "a group")
    checks.UPDATE["fisher"].check(options.pop("fisher", UpdateSettings.fisher))
    problem = update_problem(policy, batch, damping, options, sync, rat_update)
    expected = "an MLPPolicy as it comes, whose rows' gradients follow from its activations"
    if not isinstance(problem.policy, MLPPolicy):
        raise checks.fail("policy", expected, type(problem.policy).__name__)
    if reason := problem.policy.departure():
        raise checks.fail("policy", expected, f"one where {reason}")
    chosen = problem.fvp_rows
    count = len(problem.batch) if chosen is None else chosen.numel()
    if count > max_rows:
        strided = checks.check_fvp_rows(max_rows, problem.theta, count)
        problem = replace(problem, fvp_rows=strided if chosen is None else chosen[strided])
    return problem


@dataclass(frozen=True)
class Direction:
    """What the solve found: x [P], and 0-d tensors."""

    x: Tensor
    quad: Tensor  # x'(F + damping I)x
    residual_norm: Tensor  # |g - (F + damping I)x|
    finite: Tensor  # whether the system was
    positive: Tensor  # whether its matrix had a Cholesky factor


@outside_autocast
def direct_solve(problem: Problem, g: Tensor) -> Direction:
    """x = (F + damping I)^-1 g at the problem's parameters; nothing waits for a device."""
    policy, theta = problem.policy, problem.theta
    assert isinstance(policy, MLPPolicy)
    spec, head = policy.spec, policy.head
    rows = problem.fisher_batch().without_padding()
    assert rows.actions is not None
    acts = forward(theta, spec, head, one_tensor(rows.obs), rows.action_mask)
    total = total_weight(rows, theta.dtype)
    root = (problem.kl_scale * normalised_weights(rows, total)).sqrt()
    scores = root.unsqueeze(-1) * head.score(acts.params, rows.actions)

    def pulled(y: Tensor) -> Tensor:
        return vjp(theta, spec, acts, y.unsqueeze(-1) * scores)

    if problem.fvp_rows is not None and rows.group_size is not None:
        rows = replace(rows, group_size=None)  # some of a group are no group; d has the difference
    slopes = surrogate(head, rows, acts.params, acts.params, total)[1]
    a = torch.where(root > 0, slopes / root, 0.0)
    missing = None
    if problem.fvp_rows is not None:
        missing = (g - pulled(a)) / problem.damping
        a = a - (scores * jvp(theta, spec, acts, missing)).sum(-1)
    y, rest, finite, positive = _solve_rows(gram(theta, spec, acts, scores), problem.damping, a)
    x, residual = pulled(torch.stack([y, rest]))
    x = x if missing is None else x + missing
    return Direction(x, dot(x, g - residual), residual.double().norm(), finite, positive)


def _solve_rows(matrix: Tensor, damping: float, a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y of (K + damping I) y = a, given the lower triangle of K = H H'; what is left of a; whether
    the system was finite; whether there was a Cholesky factor.
    """
    diagonal = matrix.diagonal()
    empty = diagonal == 0  # a score of zero, as a weight of zero makes it: no y_n matters
    diagonal.add_(damping)
    finite = torch.isfinite(diagonal).all() & torch.isfinite(a).all()
    diagonal.add_(empty.to(diagonal.dtype))
    factor, failed = torch.linalg.cholesky_ex(matrix)
    y = torch.linalg.solve_triangular(factor, a.unsqueeze(-1), upper=False)
    y = torch.linalg.solve_triangular(factor.mT, y, upper=True).squeeze(-1)
    rest = a - (matrix @ y + matrix.T @ y - diagonal * y)
    return y, rest, finite, failed == 0


def _take(report: Report, found: Direction, search: UpdateConfig) -> None:
    """The KL-normalised step along x, shortened until it is within the limit and better."""
    operator = report.operator
    report.fail("non_finite", ~found.finite)
    report.fail("negative_curvature", ~found.positive)
    report.fail("non_finite", ~torch.isfinite(found.x).all())
    scale, at_limit = operator.first_trial(search, found.quad, report.before)
    scale = scale.to(found.x.dtype)

    def evaluate(theta: Tensor) -> tuple[Tensor, Tensor]:
        measured = operator.evaluate(theta)
        return operator.limited(search, measured), measured.surrogate

    j, theta, accepted = line_search(
        evaluate,
        operator.theta,
        scale * found.x,
        max_kl=search.max_kl,
        before=report.before.surrogate,
        ratio=search.backtrack_ratio,
        steps=search.backtrack_steps,
    )
    report.fail("at_kl_limit", at_limit)
    report.fail("line_search_failed", ~accepted)
    report.values["quad"] = found.quad
    report.values["linear_gain"] = dot(report.g, found.x)
    report.values["cg_residual"] = found.residual_norm
    report.values["backtracks"] = j
    report.write(theta, scale.double() * search.backtrack_ratio ** j.double())
