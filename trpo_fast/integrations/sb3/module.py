"""An actor with convolutions as a module for the reference backend, which takes about half of the
time of differentiating the KL twice. Without convolutions it takes a little longer, so that other
layers of the user's are left to sb3-contrib.
"""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.modules.conv import _ConvNd

from ..._base.arguments import fail
from ...policy.flat import trainable
from ...policy.heads import Gaussian
from .parts import head_of_actor, is_stock


class ActorModule(nn.Module):
    """The actor's parts of a policy, with their parameters in sb3's order: observations [N, ...] as
    ``packed`` gives them to a distribution.
    """

    def __init__(self, policy: Any) -> None:
        super().__init__()
        head = head_of_actor(policy)
        if isinstance(head, Gaussian):  # named here too: it comes first
            self.log_std = head.log_std
        self.extractor, self.hidden = policy.pi_features_extractor, policy.mlp_extractor.policy_net
        self.last, self.head = policy.action_net, head
        self.shapes: dict[str, torch.Size] = {}  # of the entries of structured observations

    def packed(self, policy: ActorCriticPolicy, observations: Any) -> Tensor:
        """Observations as the extractor gets them, the entries of a dict side by side [N, O]."""
        space, normalize = policy.observation_space, policy.normalize_images
        ready = preprocess_obs(observations, space, normalize_images=normalize)
        if isinstance(ready, Tensor):
            return ready
        self.shapes = {key: value.shape[1:] for key, value in ready.items()}
        return torch.cat([value.flatten(1) for value in ready.values()], dim=1)

    def _unpacked(self, obs: Tensor) -> Any:
        if not self.shapes:
            return obs
        parts = obs.split([shape.numel() for shape in self.shapes.values()], dim=1)
        pairs = zip(self.shapes.items(), parts, strict=True)
        return {key: part.unflatten(1, shape or (1,)) for (key, shape), part in pairs}

    def distribution_params(self, obs: Tensor) -> Tensor:
        """Distribution parameters [N, D] of packed observations [N, ...]."""
        features = self.extractor(self._unpacked(obs))
        return self.head.distribution_params(self.last(self.hidden(features)))

    def forward(self, obs: Tensor) -> Distribution:
        return self.head.distribution(self.distribution_params(obs))

    @torch.enable_grad()
    def check_all_count(self, obs: Tensor) -> None:
        """Raise ``ValueError`` for a parameter that no action follows, which sb3 does not move."""
        total = self.distribution_params(obs[:2]).sum()
        if None in torch.autograd.grad(total, trainable(self), allow_unused=True):
            raise fail("policy", "parameters that actions follow", "some that they do not")


def module_of(policy: Any) -> ActorModule | None:
    """The actor as a module; None where it has no convolution, is not put together as sb3 does, or
    sb3 takes parameters of its extractor, by their names, for the critic's.
    """
    if not is_stock(policy):
        return None
    extractor = policy.pi_features_extractor
    convolves = any(isinstance(part, _ConvNd) for part in extractor.modules())
    misnamed = any("value" in name for name, _ in extractor.named_parameters())
    return ActorModule(policy) if convolves and not misnamed else None
