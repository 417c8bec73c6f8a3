"""One update of a policy composed from a backend's stages, for libraries whose conventions are not
those of ``trpo_update``.

    x ~ (F + damping I)^-1 g by CG,  step = sqrt(2 max_kl / x'(F + damping I) x)

CG begins at a start of the caller's and stops once the square of its residual is small. The first
step first ratio^j step x is taken that has a KL below max_kl and is better enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from .._base.choices import Backend
from ..backends.registry import resolve
from ..core import checks
from ..core.batch import Batch
from ..core.cg import dot
from ..core.operator import Operator
from ..core.problem import CgConfig, Problem
from ..policy.flat import write_params

SMALLEST_SQUARE = 1e-10  # of the residual: where the CG of these libraries stops


@dataclass(frozen=True)
class Search:
    """How the direction is found, how far to go along it and how often to try."""

    max_kl: float
    damping: float
    iterations: int
    ratio: float
    steps: int
    backend: Backend
    first: float = 1.0  # of the full step: where the line search begins
    share: float = 0.0  # of the gain to first order: what a trial has to bring more than


@dataclass(frozen=True)
class PolicyStep:
    """What is logged of an update; of one that failed the KL is 0 and the objective the old one."""

    objective: float
    kl: float
    success: bool
    before: float  # the objective that the update began with
    size: float  # the factor on the search direction that was applied


def problem_of(policy: nn.Module, batch: Batch, damping: float) -> Problem:
    """The checked problem in the paper's convention: KL(old || new), summed over dimensions."""
    _, theta = checks.check_policy(policy)
    return Problem(policy, theta, checks.check_batch(policy, theta, batch), damping)


def take_step(problem: Problem, search: Search, start: Tensor | None = None) -> PolicyStep:
    """One update of the problem's policy, in place. ``start`` [P] is where CG begins, by default at
    zero.
    """
    operator = resolve(search.backend, problem).operator(problem)
    g, measured = operator.gradient()
    before = float(measured.surrogate)
    x, quad = search_direction(operator, g, search.iterations, start)
    size = math.sqrt(2.0 * search.max_kl / quad) if quad > 0.0 else math.nan
    wanted = search.share * size * float(dot(g, x)) if search.share else 0.0
    for j in range(search.steps if math.isfinite(size) else 0):
        taken = search.first * search.ratio**j
        candidate = operator.theta + taken * size * x
        after = operator.evaluate(candidate)
        kl, value = float(after.kl), float(after.surrogate)
        if kl < search.max_kl and value > before + taken * wanted:
            write_params(problem.policy, problem.theta, candidate)
            return PolicyStep(value, kl, True, before, taken * size)
    return PolicyStep(before, 0.0, False, before, 0.0)


def take_whole_step(problem: Problem, search: Search, rate: float) -> PolicyStep:
    """theta <- theta + rate x, if that is finite: the natural gradient without a line search."""
    operator = resolve(search.backend, problem).operator(problem)
    g, measured = operator.gradient()
    before = float(measured.surrogate)
    x, _ = search_direction(operator, g, search.iterations)
    candidate = operator.theta + rate * x
    after = operator.evaluate(candidate)
    kl, value = float(after.kl), float(after.surrogate)
    if not math.isfinite(kl + value):
        return PolicyStep(before, 0.0, False, before, 0.0)
    write_params(problem.policy, problem.theta, candidate)
    return PolicyStep(value, kl, True, before, rate)


def search_direction(
    operator: Operator, g: Tensor, iterations: int, start: Tensor | None = None
) -> tuple[Tensor, float]:
    """x [P] that CG finds from ``start`` [P] for g [P], and x'(F + damping I)x.

    x = start + y, where CG from zero finds y for g - (F + damping I) start: the same iterates.
    """
    if start is None:
        found = operator.solve(g, _until_small(iterations, float(dot(g, g))))
        return found.x, float(found.quad)
    product = operator.fvp(start)
    rest = g - product
    square = float(dot(rest, rest))
    x, quad = start, dot(start, product)
    if iterations > 0 and SMALLEST_SQUARE <= square < math.inf:
        found = operator.solve(rest, _until_small(iterations, square))
        x, quad = start + found.x, found.quad + 2.0 * dot(found.x, product) + quad
    return x, float(quad)


def _until_small(iterations: int, square: float) -> CgConfig:
    """CG that stops once the square of a residual that begins with ``square`` is small, after one
    iteration at the earliest.
    """
    if not SMALLEST_SQUARE <= square < math.inf:
        return CgConfig(min(iterations, 1))
    return CgConfig(iterations, math.sqrt(SMALLEST_SQUARE / square))
