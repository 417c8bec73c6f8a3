"""MountainCarContinuous-v0 as a batch of tensors: rock a weak car out of a valley."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import TensorEnv, box, columns

POWER, SLOPE, MAX_SPEED = 0.0015, 0.0025, 0.07
MIN_X, MAX_X, GOAL = -1.2, 0.6, 0.45


class MountainCarContinuous(TensorEnv):
    """State (position, velocity); actions [E, 1]; reward 100 at the goal minus 0.1 action^2 a
    step.
    """

    state_size = 2
    max_episode_steps = 999

    @property
    def single_observation_space(self) -> Any:
        return box((MIN_X, -MAX_SPEED), (MAX_X, MAX_SPEED), 2)

    @property
    def single_action_space(self) -> Any:
        return box(-1.0, 1.0, 1)

    def initial(self, count: int) -> Tensor:
        position = self.uniform(count, -0.6, -0.4, 1)[:, 0]
        return columns(position, torch.zeros_like(position))

    def dynamics(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        action = actions[:, 0].to(state.dtype)
        push = action.clamp(-1.0, 1.0) * POWER - SLOPE * torch.cos(3.0 * state[:, 0])
        velocity = (state[:, 1] + push).clamp(-MAX_SPEED, MAX_SPEED)
        position = (state[:, 0] + velocity).clamp(MIN_X, MAX_X)
        velocity = torch.where(position <= MIN_X, velocity.clamp_min(0.0), velocity)
        terminated = (position >= GOAL) & (velocity >= 0.0)
        rewards = 100.0 * terminated - 0.1 * action.square()
        return columns(position, velocity), rewards.to(state.dtype), terminated

    def observe(self, state: Tensor) -> Tensor:
        return state
