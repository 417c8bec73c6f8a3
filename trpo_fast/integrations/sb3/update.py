"""The policy's part of sb3-contrib's ``TRPO.train()``, with its conventions, by a backend's stages:
F is the Hessian of KL(new || old), averaged over rows and over action dimensions, at the present
parameters, and CG begins at 1e-4 randn.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..._base.rows import one_tensor
from ...core import checks
from ...core.batch import Batch
from ...core.problem import Problem
from ...policy.heads import MultiCategorical
from ...policy.net import MLPPolicy
from ..step import PolicyStep, Search, take_step
from .module import ActorModule

START = 1e-4  # times randn: where CG begins

Actor = MLPPolicy | ActorModule


def policy_step(actor: Actor, batch: Batch, search: Search) -> PolicyStep:
    """One update of the actor on a batch, in place. ``ValueError`` or ``RuntimeError`` of a module
    that cannot be differentiated here comes before anything is written.
    """
    _, theta = checks.check_policy(actor)
    checked = checks.check_batch(actor, theta, batch)
    if isinstance(actor, ActorModule):
        actor.check_all_count(one_tensor(checked.obs))
        search = replace(search, backend="reference")
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
    return take_step(problem, search, _start(actor, theta))


def _start(actor: Actor, theta: Tensor) -> Tensor:
    """Theirs [P], in the order of the flat parameters: sb3's policies have log_std first."""
    drawn = START * torch.randn_like(theta)
    free = actor.spec.free if isinstance(actor, MLPPolicy) else 0
    return torch.cat([drawn[free:], drawn[:free]])
