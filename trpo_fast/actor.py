"""One call from observations to actions, log-probabilities and values: what a collector asks
for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .policy import MLPPolicy


class ModuleActor:
    """Acts by running the torch modules; observations may lie on another device than the policy."""

    def __init__(self, policy: MLPPolicy, critic: Any, generator: torch.Generator) -> None:
        self.policy, self.critic, self.generator = policy, critic, generator
        self.device = next(policy.parameters()).device

    @torch.no_grad()
    def act(
        self,
        obs: Tensor,
        mask: Tensor | None,
        actions: Tensor,
        log_probs: Tensor,
        values: Tensor,
        seen: Tensor | None = None,
    ) -> None:
        """Write actions, log-probabilities and values for observations [E, O] into the given
        tensors.
        """
        obs = obs.to(self.device)
        if seen is not None:
            seen.copy_(obs)
        params = self.policy.distribution_params(
            obs, None if mask is None else mask.to(self.device)
        )
        chosen = self.policy.head.sample(params, self.generator)
        actions.copy_(chosen)
        log_probs.copy_(self.policy.head.log_prob(params, chosen))
        values.copy_(self.critic.values(obs))

    def bind(
        self,
        obs: Tensor,
        mask: Tensor | None,
        actions: Tensor,
        log_probs: Tensor,
        values: Tensor,
        seen: Tensor | None = None,
    ) -> Callable[[], None]:
        """``act`` on these tensors, to be called as often as obs is filled."""
        return partial(self.act, obs, mask, actions, log_probs, values, seen)

    @torch.no_grad()
    def values(self, obs: Tensor) -> Tensor:
        """Values [N] on the device the observations came from."""
        return self.critic.values(obs.to(self.device)).to(obs.device)
