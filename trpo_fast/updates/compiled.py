"""The products and updates as operators: ``torch.ops.trpo_fast.{fvp, solve, gradient, update}``.

Functional, tensors in and out, statistics as a tensor, nothing mutated, so ``torch.compile`` and
``torch.export`` can carry them. The policy comes as its flat parameters theta [P] and the fields of
its ``NetSpec``; the rest is as in ``FisherOperator`` and ``trpo_update``. Structure is checked,
values are not: a NaN becomes the reason in the statistics. Eager functions do not pass here.

>>> spec = policy.spec
>>> net = (spec.widths, spec.activation, spec.head, spec.nvec)
>>> x, stats = torch.ops.trpo_fast.solve(flat_params(policy), obs, g, *net)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._base.options import KernelSettings, UpdateSettings
from ..backends.registry import resolve
from ..core import checks
from ..core.batch import Batch
from ..core.operator import Operator
from ..core.problem import STATS, Problem
from ..core.search_checks import check_search, check_solve
from .problems import make_problem
from .shapes import policy_of

# Rows of the statistics of ``solve`` and entries of those of ``gradient``.
SOLVE_STATS = (
    "quad",
    "residual_norm",
    "iterations",
    "linear_gain",
    "restarts",
    "factor_rows",
    "scaled_blocks",
)
GRADIENT_STATS = ("surrogate", "entropy")


def _operator(problem: Problem, backend: str) -> Operator:
    return resolve(backend, problem).operator(problem)


def _fisher_operator(
    theta: Tensor,
    obs: Tensor,
    net: tuple[Sequence[int], str, str, Sequence[int]],
    weights: Tensor | None,
    action_mask: Tensor | None,
    backend: str,
    **options: Any,
) -> Operator:
    policy = policy_of(theta, *net)
    batch = checks.check_rows(policy, theta, Batch(obs, weights=weights, action_mask=action_mask))
    problem = make_problem(policy, batch, theta=theta.detach(), sync=False, **options)
    return _operator(problem, backend)


def _like(column: Tensor, value: Tensor | int) -> Tensor:
    """A statistic of every right-hand side, float64, or one of all of them."""
    return value.double() if isinstance(value, Tensor) else torch.full_like(column, value)


def _columns_last(value: Tensor) -> Tensor:
    return value.T.contiguous() if value.ndim == 2 else value


@torch.library.custom_op("trpo_fast::fvp", mutates_args=())
def fvp(
    theta: Tensor,
    obs: Tensor,
    v: Tensor,
    widths: Sequence[int],
    activation: str,
    head: str,
    nvec: Sequence[int],
    weights: Tensor | None = None,
    action_mask: Tensor | None = None,
    fvp_rows: Tensor | None = None,
    damping: float = UpdateSettings.damping,
    kl_reduction: str = UpdateSettings.kl_reduction,
    chunk_rows: int | None = KernelSettings.chunk_rows,
    backend: str = KernelSettings.backend,
    precision: str = KernelSettings.precision,
) -> Tensor:
    """F v + damping v at theta; v is [P], or [P, K] for several vectors."""
    operator = _fisher_operator(
        theta,
        obs,
        (widths, activation, head, nvec),
        weights,
        action_mask,
        backend,
        fvp_rows=fvp_rows,
        damping=damping,
        kl_reduction=kl_reduction,
        chunk_rows=chunk_rows,
        precision=precision,
    )
    return _columns_last(operator.fvp(checks.check_vector("v", v, theta)))


@fvp.register_fake
def _fvp_fake(*given: Any, **named: Any) -> Tensor:
    v = checks.in_one_place(given, named)[2]
    return v.new_empty(v.shape)


@torch.library.custom_op("trpo_fast::solve", mutates_args=())
def solve(
    theta: Tensor,
    obs: Tensor,
    g: Tensor,
    widths: Sequence[int],
    activation: str,
    head: str,
    nvec: Sequence[int],
    weights: Tensor | None = None,
    action_mask: Tensor | None = None,
    fvp_rows: Tensor | None = None,
    damping: float = UpdateSettings.damping,
    iterations: int = UpdateSettings.cg_iterations,
    tol: float = UpdateSettings.cg_tol,
    gain_tol: float = UpdateSettings.cg_gain_tol,
    preconditioner: str | None = UpdateSettings.preconditioner,
    factor_fraction: float = UpdateSettings.factor_fraction,
    kl_reduction: str = UpdateSettings.kl_reduction,
    chunk_rows: int | None = KernelSettings.chunk_rows,
    backend: str = KernelSettings.backend,
    precision: str = KernelSettings.precision,
) -> tuple[Tensor, Tensor]:
    """Conjugate gradient on (F + damping I) x = g: x like g; SOLVE_STATS [7] or [7, K],
    float64."""
    operator = _fisher_operator(
        theta,
        obs,
        (widths, activation, head, nvec),
        weights,
        action_mask,
        backend,
        fvp_rows=fvp_rows,
        damping=damping,
        kl_reduction=kl_reduction,
        chunk_rows=chunk_rows,
        precision=precision,
    )
    config = check_solve(iterations, tol, gain_tol, preconditioner, factor_fraction)
    found = operator.solve(checks.check_vector("g", g, theta), config)
    stats = torch.stack([_like(found.quad, getattr(found, name)) for name in SOLVE_STATS])
    return _columns_last(found.x), stats


@solve.register_fake
def _solve_fake(*given: Any, **named: Any) -> tuple[Tensor, Tensor]:
    g = checks.in_one_place(given, named)[2]
    stats = g.new_empty((len(SOLVE_STATS), *g.shape[1:]), dtype=torch.float64)
    return g.new_empty(g.shape), stats


@torch.library.custom_op("trpo_fast::gradient", mutates_args=())
def gradient(
    theta: Tensor,
    obs: Tensor,
    actions: Tensor,
    advantages: Tensor,
    widths: Sequence[int],
    activation: str,
    head: str,
    nvec: Sequence[int],
    log_probs: Tensor | None = None,
    weights: Tensor | None = None,
    action_mask: Tensor | None = None,
    group_size: int | None = None,
    chunk_rows: int | None = KernelSettings.chunk_rows,
    backend: str = KernelSettings.backend,
    precision: str = KernelSettings.precision,
    old_params: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradient of the surrogate at theta [P], and GRADIENT_STATS [2] in float64."""
    policy = policy_of(theta, widths, activation, head, nvec)
    batch = Batch(obs, actions, advantages, log_probs, weights, action_mask, group_size, old_params)
    problem = make_problem(
        policy,
        checks.check_batch(policy, theta, batch),
        theta=theta.detach(),
        damping=0.0,
        chunk_rows=chunk_rows,
        precision=precision,
    )
    g, evaluation = _operator(problem, backend).gradient()
    stats = torch.stack([getattr(evaluation, name).double() for name in GRADIENT_STATS])
    return g.clone(), stats


@gradient.register_fake
def _gradient_fake(*given: Any, **named: Any) -> tuple[Tensor, Tensor]:
    theta = checks.in_one_place(given, named)[0]
    stats = theta.new_empty(len(GRADIENT_STATS), dtype=torch.float64)
    return theta.new_empty(theta.shape), stats


@torch.library.custom_op("trpo_fast::update", mutates_args=())
def update(
    theta: Tensor,
    obs: Tensor,
    actions: Tensor,
    advantages: Tensor,
    widths: Sequence[int],
    activation: str,
    head: str,
    nvec: Sequence[int],
    log_probs: Tensor | None = None,
    weights: Tensor | None = None,
    action_mask: Tensor | None = None,
    fvp_rows: Tensor | None = None,
    group_size: int | None = None,
    max_kl: float = UpdateSettings.max_kl,
    damping: float = UpdateSettings.damping,
    cg_iterations: int = UpdateSettings.cg_iterations,
    cg_tol: float = UpdateSettings.cg_tol,
    cg_gain_tol: float = UpdateSettings.cg_gain_tol,
    preconditioner: str | None = UpdateSettings.preconditioner,
    factor_fraction: float = UpdateSettings.factor_fraction,
    backtrack_ratio: float = UpdateSettings.backtrack_ratio,
    backtrack_steps: int = UpdateSettings.backtrack_steps,
    kl_reduction: str = UpdateSettings.kl_reduction,
    kl_direction: str = UpdateSettings.kl_direction,
    chunk_rows: int | None = KernelSettings.chunk_rows,
    backend: str = KernelSettings.backend,
    precision: str = KernelSettings.precision,
    old_params: Tensor | None = None,
    constraint: str = UpdateSettings.constraint,
) -> tuple[Tensor, Tensor]:
    """``trpo_update`` that returns the parameters [P] it leads to, theta where no step was taken,
    and the statistics of ``UpdateInfo``, float64 in the order of ``STATS``.
    """
    policy = policy_of(theta, widths, activation, head, nvec)
    batch = Batch(obs, actions, advantages, log_probs, weights, action_mask, group_size, old_params)
    problem = make_problem(
        policy,
        checks.check_batch(policy, theta, batch),
        theta=theta.detach().clone(),  # the operator writes its problem's theta, not the caller's
        damping=damping,
        kl_reduction=kl_reduction,
        kl_direction=kl_direction,
        constraint=constraint,
        fvp_rows=fvp_rows,
        chunk_rows=chunk_rows,
        precision=precision,
        sync=False,
    )
    config = check_search(
        max_kl=max_kl,
        cg_iterations=cg_iterations,
        cg_tol=cg_tol,
        cg_gain_tol=cg_gain_tol,
        preconditioner=preconditioner,
        factor_fraction=factor_fraction,
        backtrack_ratio=backtrack_ratio,
        backtrack_steps=backtrack_steps,
    )
    return problem.theta, _operator(problem, backend).update(config)


@update.register_fake
def _update_fake(*given: Any, **named: Any) -> tuple[Tensor, Tensor]:
    theta = checks.in_one_place(given, named)[0]
    return theta.new_empty(theta.shape), theta.new_empty(len(STATS), dtype=torch.float64)
