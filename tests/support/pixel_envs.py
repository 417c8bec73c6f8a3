"""Small environments whose observations are images, dicts and tuples; every state can be saved."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

SIDE = 6


class Columns(gymnasium.Env):
    """One of three columns of the image is lit: the action that names it pays 1. ``shape`` says how
    the image lies.
    """

    action_space = spaces.Discrete(3)

    def __init__(self, shape: tuple[int, ...] = (1, SIDE, SIDE), length: int = 5) -> None:
        self.observation_space: Any = spaces.Box(0, 255, shape, np.uint8)
        self.length, self.count, self.lit = length, 0, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return self.observed(), {}

    def observed(self) -> Any:
        self.lit = int(self.np_random.integers(3))
        image = np.zeros((SIDE, SIDE), np.uint8)
        image[:, 2 * self.lit] = 255
        return np.broadcast_to(image.reshape(self.laid()), self.observation_space.shape).copy()

    def laid(self) -> tuple[int, ...]:
        """The shape in which one plane of the image is broadcast."""
        shape = self.observation_space.shape
        last = len(shape) > 2 and shape[-1] < shape[-3]
        return (SIDE, SIDE, 1) if last else (SIDE, SIDE)

    def step(self, action: Any) -> Any:
        reward, self.count = float(int(action) == self.lit), self.count + 1
        return self.observed(), reward, False, self.count >= self.length, {}

    def save_state(self) -> dict[str, Any]:
        return {"at": [self.count, self.lit], "random": self.np_random.bit_generator.state}

    def load_state(self, state: dict[str, Any]) -> None:
        self.count, self.lit = state["at"]
        self.np_random.bit_generator.state = state["random"]


class Mixed(Columns):
    """The image within a dict, beside a vector, a choice and a tuple."""

    def __init__(self, length: int = 5) -> None:
        super().__init__(length=length)
        pair = (spaces.MultiBinary(2), spaces.Box(0.0, 1.0, (2, 2)))
        self.observation_space = spaces.Dict(
            {
                "speed": spaces.Box(-50.0, 50.0, (3,), np.float64),
                "camera": spaces.Box(0, 255, (1, SIDE, SIDE), np.uint8),
                "gear": spaces.Discrete(4, start=-1),
                "pair": spaces.Tuple(pair),
                "switches": spaces.MultiDiscrete([2, 3]),
            }
        )

    def observed(self) -> Any:
        self.lit = int(self.np_random.integers(3))
        image = np.zeros((1, SIDE, SIDE), np.uint8)
        image[:, :, 2 * self.lit] = 255
        return {
            "speed": self.np_random.normal(5.0, 3.0, 3),
            "camera": image,
            "gear": self.lit - 1,
            "pair": (np.array([1, 0], np.int8), np.full((2, 2), 0.5, np.float32)),
            "switches": np.array([1, self.count % 3]),
        }


class Pair(Columns):
    """A tuple of an image and a vector, NaN at the third step if it is ``broken``."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.broken = broken
        vector = spaces.Box(-1.0, 1.0, (2,))
        self.observation_space = spaces.Tuple((self.observation_space, vector))

    def observed(self) -> Any:
        self.lit, image = int(self.np_random.integers(3)), np.zeros((1, SIDE, SIDE), np.uint8)
        image[:, :, 2 * self.lit] = 255
        value = np.nan if self.broken and self.count == 3 else 0.5
        return image, np.full(2, value, np.float32)
