"""The one-dimensional linear-quadratic regulator of the natural-gradient lecture notes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .base import TensorEnv, unbounded

GAMMA = 0.9  # the discount that the notes use


class LQR(TensorEnv):
    """s' = s + a, reward -s^2 - a^2 of the state the action is taken in; actions [E, 1]; never
    terminates.
    """

    state_size = 1
    max_episode_steps = 100

    @property
    def single_observation_space(self) -> Any:
        return unbounded(1)

    @property
    def single_action_space(self) -> Any:
        return unbounded(1)

    def initial(self, count: int) -> Tensor:
        return self.uniform(count, -1.0, 1.0, 1)

    def dynamics(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        action = actions.to(state.dtype)
        rewards = -(state.square() + action.square())[:, 0]
        return state + action, rewards, None

    def observe(self, state: Tensor) -> Tensor:
        return state
