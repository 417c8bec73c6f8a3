"""CartPole-v1 as a batch of tensors: explicit Euler on (x, x', angle, angle')."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .base import TensorEnv, box, columns

GRAVITY, CART, POLE, HALF_LENGTH, FORCE, TAU = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
TOTAL = CART + POLE
POLE_MOMENT = POLE * HALF_LENGTH
MAX_X = 2.4
MAX_ANGLE = 12 * 2 * math.pi / 360


class CartPole(TensorEnv):
    """Keep the pole up: reward 1 a step until it falls or the cart leaves the track; actions [E]
    are 0 or 1.
    """

    state_size = 4
    max_episode_steps = 500

    @property
    def single_observation_space(self) -> Any:
        high = (2 * MAX_X, math.inf, 2 * MAX_ANGLE, math.inf)
        return box([-h for h in high], high, 4)

    @property
    def single_action_space(self) -> Any:
        from gymnasium.spaces import Discrete

        return Discrete(2)

    def initial(self, count: int) -> Tensor:
        return self.uniform(count, -0.05, 0.05, 4)

    def dynamics(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        angle, spin = state[:, 2], state[:, 3]
        cos, sin = torch.cos(angle), torch.sin(angle)
        force = actions.to(state.dtype) * (2.0 * FORCE) - FORCE
        push = (force + POLE_MOMENT * spin.square() * sin) / TOTAL
        inertia = HALF_LENGTH * (4.0 / 3.0 - POLE * cos.square() / TOTAL)
        turn = (GRAVITY * sin - cos * push) / inertia
        shove = push - POLE_MOMENT * turn * cos / TOTAL
        rates = columns(state[:, 1], shove, spin, turn)
        new = torch.add(state, rates, alpha=TAU)
        terminated = (new[:, 0].abs() > MAX_X) | (new[:, 2].abs() > MAX_ANGLE)
        return new, torch.ones_like(angle), terminated

    def observe(self, state: Tensor) -> Tensor:
        return state
