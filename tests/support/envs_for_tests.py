"""Small environments whose every number is known: they count, misbehave, or mask actions."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

Step = tuple[Any, float, bool, bool, dict[str, Any]]


class Counting(gymnasium.Env):
    """Observation (episode, step); reward = step; ends after ``length`` steps, every third
    episode by truncation.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, length: int = 4) -> None:
        self.length, self.episode, self.count = length, -1, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.count = self.episode + 1, 0
        return self._obs(), {}

    def _obs(self) -> np.ndarray:
        return np.array([self.episode, self.count], np.float32)

    def step(self, action: Any) -> Step:
        self.count += 1
        over = self.count == self.length
        truncated = over and self.episode % 3 == 2
        return self._obs(), float(self.count), over and not truncated, truncated, {}


class Failing(Counting):
    """Misbehaves at its sixth step in all: raises, returns NaN, an infinite reward, or a wrong
    shape.
    """

    def __init__(self, how: str) -> None:
        super().__init__(length=100)
        self.how = how

    def step(self, action: Any) -> Step:
        obs, reward, terminated, truncated, info = super().step(action)
        if self.count == 6:
            if self.how == "raises":
                raise ZeroDivisionError("the simulator is broken")
            obs = {"nan": obs * np.nan, "shape": np.zeros(5, np.float32)}.get(self.how, obs)
            reward = np.inf if self.how == "reward" else reward
        return obs, reward, terminated, truncated, info


class Masked(Counting):
    """Allows action (step mod 3) only, and fails on any other."""

    def reset(self, **options: Any) -> Any:
        obs, _ = super().reset(**options)
        return obs, {"action_mask": self._mask()}

    def _mask(self) -> np.ndarray:
        return np.arange(3) == self.count % 3

    def step(self, action: Any) -> Step:
        assert self._mask()[action], f"action {action} is masked"
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, {"action_mask": self._mask()}
