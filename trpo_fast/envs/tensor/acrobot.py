"""Acrobot-v1 as a batch of tensors: two links, torque on the joint between them, one Runge-Kutta
step of 0.2 s.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .base import TensorEnv, box, columns, wrap_angle

DT, GRAVITY, CENTRE, INERTIA = 0.2, 9.8, 0.5, 1.0  # links of length 1 and mass 1
MAX_SPEED_1, MAX_SPEED_2 = 4 * math.pi, 9 * math.pi


def _rates(state: Tensor, torque: Tensor) -> Tensor:
    """Time derivative [E, 4] of (angle 1, angle 2, speed 1, speed 2), the equations of Sutton and
    Barto's book.
    """
    angle1, angle2, speed1, speed2 = state.unbind(-1)
    cos2, sin2 = torch.cos(angle2), torch.sin(angle2)
    d1 = CENTRE**2 + (1.0 + CENTRE**2 + 2.0 * CENTRE * cos2) + 2.0 * INERTIA
    d2 = CENTRE**2 + CENTRE * cos2 + INERTIA
    phi2 = CENTRE * GRAVITY * torch.cos(angle1 + angle2 - math.pi / 2.0)
    phi1 = (
        -CENTRE * speed2.square() * sin2
        - 2.0 * CENTRE * speed2 * speed1 * sin2
        + (CENTRE + 1.0) * GRAVITY * torch.cos(angle1 - math.pi / 2.0)
        + phi2
    )
    turn2 = torque + d2 / d1 * phi1 - CENTRE * speed1.square() * sin2 - phi2
    turn2 = turn2 / (CENTRE**2 + INERTIA - d2.square() / d1)
    turn1 = -(d2 * turn2 + phi1) / d1
    return columns(speed1, speed2, turn1, turn2)


class Acrobot(TensorEnv):
    """Swing the tip above the bar: reward -1 a step until then; actions [E] in 0, 1, 2 are torques
    -1, 0, 1.
    """

    state_size = 4
    max_episode_steps = 500

    @property
    def single_observation_space(self) -> Any:
        high = (1.0, 1.0, 1.0, 1.0, MAX_SPEED_1, MAX_SPEED_2)
        return box([-h for h in high], high, 6)

    @property
    def single_action_space(self) -> Any:
        from gymnasium.spaces import Discrete

        return Discrete(3)

    def initial(self, count: int) -> Tensor:
        return self.uniform(count, -0.1, 0.1, 4)

    def dynamics(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        torque = actions.to(state.dtype) - 1.0
        k1 = _rates(state, torque)
        k2 = _rates(state + 0.5 * DT * k1, torque)
        k3 = _rates(state + 0.5 * DT * k2, torque)
        k4 = _rates(state + DT * k3, torque)
        new = state + DT / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
        speed1 = new[:, 2].clamp(-MAX_SPEED_1, MAX_SPEED_1)
        speed2 = new[:, 3].clamp(-MAX_SPEED_2, MAX_SPEED_2)
        angle1, angle2 = wrap_angle(new[:, 0]), wrap_angle(new[:, 1])
        terminated = -torch.cos(angle1) - torch.cos(angle1 + angle2) > 1.0
        rewards = terminated.to(state.dtype) - 1.0
        return columns(angle1, angle2, speed1, speed2), rewards, terminated

    def observe(self, state: Tensor) -> Tensor:
        angle1, angle2, speed1, speed2 = state.unbind(-1)
        first = torch.cos(angle1), torch.sin(angle1)
        return columns(*first, torch.cos(angle2), torch.sin(angle2), speed1, speed2)
