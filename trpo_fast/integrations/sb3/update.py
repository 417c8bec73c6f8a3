"""The policy's part of sb3-contrib's ``TRPO.train()``, with its conventions, by a backend's stages.

    x ~ (F + damping I)^-1 g by CG from 1e-4 randn,  step = sqrt(2 target_kl / x'(F + damping I) x)

F is the Hessian of KL(new || old), averaged over rows and over action dimensions, at the present
parameters. The first step c^j step x with a KL below target_kl and a better surrogate is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._base.choices import Backend
from ..._base.rows import one_tensor
from ...backends.registry import resolve
from ...core import checks
from ...core.batch import Batch
from ...core.cg import dot
from ...core.problem import CgConfig, Operator, Problem
from ...policy.flat import write_params
from ...policy.heads import MultiCategorical
from ...policy.net import MLPPolicy
from .module import ActorModule

SMALLEST_SQUARE = 1e-10  # of the residual: where their CG stops
START = 1e-4  # times randn: where it begins

Actor = MLPPolicy | ActorModule


@dataclass(frozen=True)
class Search:
    """Settings of ``TRPO`` under the names of this package."""

    max_kl: float
    damping: float
    iterations: int
    ratio: float
    steps: int
    backend: Backend


@dataclass(frozen=True)
class PolicyStep:
    """What is logged of an update; of one that failed the KL is 0 and the objective the old one."""

    objective: float
    kl: float
    success: bool


def policy_step(actor: Actor, batch: Batch, search: Search) -> PolicyStep:
    """One update of the actor on a batch, in place. ``ValueError`` or ``RuntimeError`` of a module
    that cannot be differentiated here comes before anything is written.
    """
    _, theta = checks.check_policy(actor)
    checked = checks.check_batch(actor, theta, batch)
    backend: Backend = search.backend
    if isinstance(actor, ActorModule):
        actor.check_all_count(one_tensor(checked.obs))
        backend = "reference"
    problem = Problem(
        policy=actor,
        theta=theta,
        batch=checked,
        damping=search.damping,
        # sb3 averages torch's KL, which has an entry for each dimension of the action, over all;
        # its categoricals of several factors are summed before.
        kl_scale=1.0 if isinstance(actor.head, MultiCategorical) else actor.head.mean_scale(),
        reverse_kl=True,
    )
    operator = resolve(backend, problem).operator(problem)
    g, before = operator.gradient()
    objective = float(before.surrogate)
    x, quad = search_direction(operator, g, _start(actor, theta), search.iterations)
    size = math.sqrt(2.0 * search.max_kl / quad) if quad > 0.0 else math.nan
    for j in range(search.steps if math.isfinite(size) else 0):
        candidate = operator.theta + search.ratio**j * size * x
        after = operator.evaluate(candidate)
        kl, value = float(after.kl), float(after.surrogate)
        if kl < search.max_kl and value > objective:
            write_params(actor, theta, candidate)
            return PolicyStep(value, kl, True)
    return PolicyStep(objective, 0.0, False)


def search_direction(
    operator: Operator, g: Tensor, start: Tensor, iterations: int
) -> tuple[Tensor, float]:
    """x [P] that CG finds from ``start`` [P] for g [P], and x'(F + damping I)x.

    x = start + y, where CG from zero finds y for g - (F + damping I) start: the same iterates.
    """
    product = operator.fvp(start)
    rest = g - product
    square = float(dot(rest, rest))
    x, quad = start, dot(start, product)
    if iterations > 0 and SMALLEST_SQUARE <= square < math.inf:
        tol = math.sqrt(SMALLEST_SQUARE / square)
        found = operator.solve(rest, CgConfig(iterations, tol))
        x, quad = start + found.x, found.quad + 2.0 * dot(found.x, product) + quad
    return x, float(quad)


def _start(actor: Actor, theta: Tensor) -> Tensor:
    """Theirs [P], in the order of the flat parameters: sb3's policies have log_std first."""
    drawn = START * torch.randn_like(theta)
    free = actor.spec.free if isinstance(actor, MLPPolicy) else 0
    return torch.cat([drawn[free:], drawn[:free]])
