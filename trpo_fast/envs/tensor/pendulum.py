"""Pendulum-v1 as a batch of tensors: swing up and balance with a torque that is too weak to do it
at once.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .base import TensorEnv, box, columns, wrap_angle

GRAVITY, MASS, LENGTH, DT = 10.0, 1.0, 1.0, 0.05
MAX_SPEED, MAX_TORQUE = 8.0, 2.0


class Pendulum(TensorEnv):
    """State (angle, angular speed); actions [E, 1] are torques; never terminates."""

    state_size = 2
    max_episode_steps = 200

    @property
    def single_observation_space(self) -> Any:
        high = (1.0, 1.0, MAX_SPEED)
        return box([-h for h in high], high, 3)

    @property
    def single_action_space(self) -> Any:
        return box(-MAX_TORQUE, MAX_TORQUE, 1)

    def initial(self, count: int) -> Tensor:
        unit = self.uniform(count, -1.0, 1.0, 2)
        return columns(unit[:, 0] * math.pi, unit[:, 1])

    def dynamics(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        angle, speed = state[:, 0], state[:, 1]
        torque = actions[:, 0].to(state.dtype).clamp(-MAX_TORQUE, MAX_TORQUE)
        cost = wrap_angle(angle).square() + 0.1 * speed.square() + 0.001 * torque.square()
        gain = 3.0 * GRAVITY / (2.0 * LENGTH) * torch.sin(angle)
        speed = speed + (gain + 3.0 / (MASS * LENGTH**2) * torque) * DT
        speed = speed.clamp(-MAX_SPEED, MAX_SPEED)
        return columns(angle + speed * DT, speed), -cost, None

    def observe(self, state: Tensor) -> Tensor:
        angle = state[:, 0]
        return columns(torch.cos(angle), torch.sin(angle), state[:, 1])
