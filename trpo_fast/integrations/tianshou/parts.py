"""tianshou's policies as what an update takes: a net for the kernels that holds the actor's own
layers, or the actor as a module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy, ProbabilisticActorPolicy
from tianshou.utils.net.continuous import ContinuousActorProbabilistic
from tianshou.utils.net.discrete import DiscreteActor
from torch import Tensor, nn
from torch.distributions import Distribution

from ...core.batch import Batch
from ...core.modules import head_of
from ...policy.flat import flat_params, mark_written, trainable
from ...policy.heads import Categorical, Gaussian, Head, head_of_distribution
from ...policy.net import MLPPolicy
from ..traced import layers_of

FEW = 64  # rows on which a net is compared with the policy


class ActorModule(nn.Module):
    """A policy's actor and ``dist_fn`` as a module from observations [N, ...]."""

    def __init__(self, actor: Any, dist_fn: Callable[..., Distribution]) -> None:
        super().__init__()
        self.actor, self.dist_fn = actor, dist_fn

    def forward(self, obs: Tensor) -> Distribution:
        found, _ = self.actor(obs, state=None, info={})
        return self.dist_fn(found)


class Actor:
    """What an update moves. A net's ``log_std`` [A] is tianshou's ``sigma_param`` [A, 1], copied to
    it before an update and back after.
    """

    def __init__(self, policy: nn.Module, sigma: nn.Parameter | None = None) -> None:
        self.policy, self._sigma = policy, sigma
        self.dtype = flat_params(policy).dtype

    @torch.no_grad()
    def read(self) -> None:
        """Take the standard deviations."""
        if self._sigma is not None:
            self._log_std().copy_(self._sigma.flatten())
            mark_written(self.policy)

    @torch.no_grad()
    def write(self) -> None:
        """Give them back."""
        if self._sigma is not None:
            self._sigma.copy_(self._log_std().view_as(self._sigma))

    def _log_std(self) -> nn.Parameter:
        head = self.policy.head
        assert isinstance(head, Gaussian) and head.log_std is not None
        return head.log_std

    def actions(self, actions: Tensor) -> Tensor:
        """Actions in the form that the policy's distribution has them."""
        policy = self.policy
        choices = isinstance(policy, MLPPolicy) and policy.head.nvec
        return actions.long() if choices or actions.ndim == 1 else actions


def observations_of(obs: Any, like: Tensor) -> Tensor | None:
    """Observations [N, ...] as a tensor beside ``like``; None for structured ones."""
    if not isinstance(obs, np.ndarray | Tensor) or (
        isinstance(obs, np.ndarray) and obs.dtype == object
    ):
        return None
    return torch.as_tensor(obs, device=like.device, dtype=like.dtype)


def actor_of(policy: Any, obs: Tensor) -> Actor:
    """The policy as an actor. ``ValueError`` or ``RuntimeError`` for one that no update here can
    take. ``obs`` are rows to run it on.
    """
    kinds = (ProbabilisticActorPolicy, DiscreteActorPolicy)
    if type(policy).forward is not ProbabilisticActorPolicy.forward:
        known = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"policy: expected {known}, got {type(policy).__name__}")
    module = ActorModule(policy.actor, policy.dist_fn)
    few = obs[:FEW]
    with torch.no_grad():
        found = module(few)
    if found.batch_shape != few.shape[:1]:
        raise ValueError(
            "policy: expected a dist_fn with one log-probability a row, such as Independent(Normal)"
            f", got the batch shape {list(found.batch_shape)}"
        )
    net = _net_of(policy.actor, few)
    if net is not None and _same(net, found, few):
        return net
    head_of(module, Batch(few))
    return Actor(module)


def _net_of(actor: Any, few: Tensor) -> Actor | None:
    if few.ndim != 2:
        return None
    if type(actor) is ContinuousActorProbabilistic:
        if actor._c_sigma or not actor._unbounded:
            return None
        return _net(actor, lambda: actor.mu(actor.preprocess(few, None)[0]), few, Gaussian)
    if type(actor) is DiscreteActor:
        return _net(actor, lambda: actor.last(actor.preprocess(few, None)[0]), few, Categorical)
    return _net(actor, lambda: actor(few, state=None, info={})[0], few, Categorical)


def _net(
    actor: Any, call: Callable[[], Any], few: Tensor, head: Callable[[int], Head]
) -> Actor | None:
    layers = layers_of(call, few, actor.modules())
    if not layers or not isinstance(layers[-1], nn.Linear):
        return None
    weight = layers[-1].weight
    try:
        policy = MLPPolicy.of_layers(layers, head(len(weight)).to(weight))
    except ValueError:  # two activations in turn, say
        return None
    sigma = actor.sigma_param if isinstance(policy.head, Gaussian) else None
    held = {id(p) for p in policy.net.parameters()} | ({id(sigma)} if sigma is not None else set())
    if policy.departure() or held != {id(p) for p in trainable(actor)}:
        return None
    return Actor(policy, sigma)


@torch.no_grad()
def _same(net: Actor, found: Distribution, few: Tensor) -> bool:
    """Whether ``dist_fn`` makes of the actor's outputs the distribution that the head is."""
    known = head_of_distribution(found)
    assert isinstance(net.policy, MLPPolicy)
    head = net.policy.head
    if known is None or known[0].kind not in (head.kind, f"{head.kind}_state"):
        return False
    net.read()
    params, theirs = net.policy.distribution_params(few), known[1]
    if isinstance(head, Categorical):
        params, theirs = params.log_softmax(-1), theirs.log_softmax(-1)
    return params.shape == theirs.shape and torch.allclose(params, theirs, rtol=1e-4, atol=1e-5)
