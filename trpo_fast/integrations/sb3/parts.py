"""The actor and the critic within a policy of stable-baselines3, as nets that the kernels take.

Both hold the very ``nn.Linear`` objects and the ``log_std`` of the policy, no copies: what is
written to one is written to the other. Observations become features outside of them, which takes
an extractor without parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from stable_baselines3.common.torch_layers import (
    CombinedExtractor,
    FlattenExtractor,
    MlpExtractor,
)
from torch import Tensor, nn

from ...policy.heads import Bernoulli, Categorical, Gaussian, Head, MultiCategorical
from ...policy.net import MLPPolicy

# By whose results sb3's train() knows a policy; one that has others is sb3's own matter.
_METHODS = (
    "get_distribution",
    "predict_values",
    "extract_features",
    "_get_action_dist_from_latent",
)
_HEADS: dict[type, Callable[[Any], Head]] = {
    DiagGaussianDistribution: lambda known: Gaussian(known.action_dim),
    CategoricalDistribution: lambda known: Categorical(known.action_dim),
    MultiCategoricalDistribution: lambda known: MultiCategorical(
        [int(n) for n in known.action_dims]
    ),
    BernoulliDistribution: lambda known: Bernoulli(known.action_dims),
}


def actor_of(policy: Any) -> MLPPolicy | None:
    """The policy's actor over features [N, O]; None where it is more than an MLPPolicy."""
    if not is_stock(policy) or not is_flat(policy.pi_features_extractor):
        return None
    return _net(policy.mlp_extractor.policy_net, policy.action_net, head_of_actor(policy))


def head_of_actor(policy: Any) -> Head:
    """The policy's action distribution, with the policy's own ``log_std``."""
    head = _HEADS[type(policy.action_dist)](policy.action_dist)
    if isinstance(head, Gaussian):
        head.log_std = policy.log_std
    return head


def critic_of(policy: Any) -> MLPPolicy | None:
    """The policy's value net over features [N, O], as the means of a Gaussian; None as above."""
    if not is_stock(policy) or not is_flat(policy.vf_features_extractor):
        return None
    head = Gaussian(1).to(policy.value_net.weight)
    return _net(policy.mlp_extractor.value_net, policy.value_net, head)


def is_stock(policy: Any) -> bool:
    """Whether the policy computes distributions and values as sb3's ``ActorCriticPolicy`` does."""
    kind = type(policy)
    if not isinstance(policy, ActorCriticPolicy) or not vars(policy).keys().isdisjoint(_METHODS):
        return False
    return (
        all(getattr(kind, name) is getattr(ActorCriticPolicy, name) for name in _METHODS)
        and type(policy.mlp_extractor) is MlpExtractor
        and type(policy.action_dist) in _HEADS
        and _is_plain(policy.mlp_extractor)
    )


def is_flat(extractor: nn.Module) -> bool:
    """Whether an extractor only puts observations side by side."""
    if type(extractor) is CombinedExtractor:
        kinds = {type(part) for part in extractor.extractors.values()}
    else:
        kinds = {nn.Flatten} if type(extractor) is FlattenExtractor else set()
    return kinds == {nn.Flatten} and all(map(_is_plain, extractor.modules()))


def _is_plain(module: nn.Module) -> bool:
    """Whether calling a module runs its class's forward and nothing else."""
    hooks = module._forward_hooks, module._forward_pre_hooks
    backward = module._backward_hooks, module._backward_pre_hooks
    return "forward" not in vars(module) and not any((*hooks, *backward))


def _net(hidden: nn.Sequential, last: nn.Linear, head: Head) -> MLPPolicy | None:
    if not _is_plain(hidden):
        return None
    try:
        net = MLPPolicy.of_layers([*hidden, last], head)
    except ValueError:  # layers of other kinds
        return None
    return None if net.departure() else net


@torch.no_grad()
def features(policy: ActorCriticPolicy, observations: Any, extractor: Any) -> Tensor:
    """What the nets see [N, O] of observations as the rollout buffer gives them."""
    found: Tensor = BaseModel.extract_features(policy, observations, extractor)
    return found
