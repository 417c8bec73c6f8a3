"""What the critic sees where a tensor environment shows it more than the policy: observations of
its own, their running statistics, and the values of a rollout.

The policy acts in one call with a critic of one linear map, whose values are written over here.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..envs.flat import numbers_in
from ..envs.tensor.base import TensorStep
from ..envs.tensor.protocol import check_critic_obs
from ..learner.critic import Critic
from ..learner.normalise import ObservationNormaliser
from .rollout import Layout


class CriticView:
    """The critic's observations of a rollout: ``raw`` [T, E, C] as the environment gave them, and
    ``obs`` as the critic saw them.
    """

    def __init__(
        self, env: Any, critic: Critic, layout: Layout, normaliser: ObservationNormaliser | None
    ) -> None:
        self.env, self.critic, self.normaliser = env, critic, normaliser
        width = numbers_in(env.single_critic_observation_space)
        self.raw, self.final = layout.empty(width), layout.empty(width)
        self.obs = self.raw if normaliser is None else layout.empty(width)

    def store(self, t: int) -> None:
        """Take the observations of the states that the actions of step ``t`` are chosen in."""
        self.raw[t] = self.env.critic_obs()

    def store_final(self, t: int, step: TensorStep) -> bool:
        """Take the final observations of a step; whether it has them."""
        if step.final_critic_obs is not None:
            self.final[t] = step.final_critic_obs
        return step.final_critic_obs is not None

    def value_rollout(self, values: Tensor) -> Tensor:
        """Write the values [T, E] of the rollout; return those [E] of the states after it."""
        if self.normaliser is not None:
            self.obs.copy_(self.normaliser(self.raw))
        values.copy_(self.critic.values(self.obs.flatten(0, 1)).view_as(values))
        return self.present()

    def present(self) -> Tensor:
        """Values [E] of the states that the copies are in."""
        return self.values(check_critic_obs(self.env, self.env.critic_obs(), "critic_obs"))

    def values(self, raw: Tensor) -> Tensor:
        """Values [N] of observations [N, C] as the environment gives them."""
        rows = raw.to(self.raw.dtype)
        return self.critic.values(rows if self.normaliser is None else self.normaliser(rows))

    def update(self, rows: Tensor) -> None:
        """Merge observations [N, C] into the statistics."""
        if self.normaliser is not None:
            self.normaliser.update(rows)

    def state(self) -> dict[str, Any] | None:
        return None if self.normaliser is None else self.normaliser.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        if self.normaliser is not None:
            self.normaliser.load_state_dict(state)
