"""``policy.forward`` while rollouts are collected: the operators that sb3's own runs, without the
modules and distributions around them. Actions, values, log-probabilities and draws are theirs, bit
for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn

from ...policy.heads import Categorical, Gaussian
from .parts import actor_of, critic_of

_LOG_ROOT_2PI = math.log(math.sqrt(2.0 * math.pi))
Acted = tuple[Tensor, Tensor, Tensor]  # actions [E, ...], values [E, 1], log-probabilities [E]


@contextmanager
def acting(policy: Any) -> Iterator[None]:
    """Within it ``policy(obs)`` is the short form, where the policy has one."""
    short = _short_form(policy)
    if short is None:
        yield
        return
    policy.forward = short
    try:
        yield
    finally:
        vars(policy).pop("forward", None)


def _short_form(policy: Any) -> _Forward | None:
    """The short form of a stock policy over vectors on the CPU, for the heads known here."""
    if getattr(policy.forward, "__func__", None) is not ActorCriticPolicy.forward:
        return None
    actor, critic = actor_of(policy), critic_of(policy)
    if actor is None or critic is None or policy.device.type != "cpu":
        return None
    space, extractor = policy.observation_space, policy.features_extractor
    plain = isinstance(space, spaces.Box) and not is_image_space(space)
    if not plain or type(extractor) is not FlattenExtractor:
        return None
    choose = {Gaussian: _choose_normal, Categorical: _choose_index}.get(type(actor.head))
    return None if choose is None else _Forward(policy, choose)


class _Forward:
    """``ActorCriticPolicy.forward`` of one policy, in few operators."""

    def __init__(self, policy: ActorCriticPolicy, choose: _Choose) -> None:
        self._policy, self._choose = policy, choose
        extractor = policy.mlp_extractor
        self._actor = _steps(*extractor.policy_net, policy.action_net)
        self._critic = _steps(*extractor.value_net, policy.value_net)
        self._shape = policy.action_space.shape or ()

    def __call__(self, obs: Any, deterministic: bool = False) -> Acted:
        if deterministic or torch.is_grad_enabled():
            return ActorCriticPolicy.forward(self._policy, obs, deterministic)
        seen = obs.float().flatten(1)
        z = _through(self._actor, seen)
        if not math.isfinite(z.sum().item()):  # what sb3 says of it
            return ActorCriticPolicy.forward(self._policy, obs, deterministic)
        values = _through(self._critic, seen)
        actions, log_probs = self._choose(self._policy, z)
        return actions.reshape(-1, *self._shape), values, log_probs

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the policy has sb3's own forward."""
        return MethodType(ActorCriticPolicy.forward, memo.get(id(self._policy), self._policy))

    def __reduce__(self) -> tuple[Any, ...]:
        """So has a policy from a file."""
        return getattr, (self._policy, "forward")


_Step = Callable[[Tensor], Tensor]
_Choose = Callable[[Any, Tensor], tuple[Tensor, Tensor]]


def _steps(*layers: nn.Module) -> list[_Step]:
    """The layers without their module calls; parameters written in place are followed."""
    return [_linear(layer) if isinstance(layer, nn.Linear) else layer.forward for layer in layers]


def _linear(layer: nn.Linear) -> _Step:
    weight, bias = layer.weight, layer.bias
    return lambda x: F.linear(x, weight, bias)


def _through(steps: list[_Step], x: Tensor) -> Tensor:
    for step in steps:
        x = step(x)
    return x


def _choose_normal(policy: Any, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Draws of N(mean, exp(log_std)^2) and their log-probabilities, as ``DiagGaussianDistribution``
    computes them.
    """
    std = torch.ones_like(mean) * policy.log_std.exp()
    actions = mean + torch.empty_like(mean).normal_() * std
    each = -((actions - mean) ** 2) / (2 * std**2) - std.log() - _LOG_ROOT_2PI
    return actions, each.sum(dim=1)


def _choose_index(policy: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    """The same for ``CategoricalDistribution``."""
    logits = z - z.logsumexp(dim=-1, keepdim=True)
    actions = torch.multinomial(F.softmax(logits, dim=-1), 1, True)
    return actions.squeeze(-1), logits.gather(-1, actions).squeeze(-1)
