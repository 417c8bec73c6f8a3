"""A game learned from its pixels: catch the falling ball with a paddle, from images of 16 x 16.

    python examples/catch_pixels.py 60 curve.csv

The two arguments, the number of updates and where to write the curve, may be left out. It takes a
minute or two of one core.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from trpo_fast import TRPO, evaluate

SIDE = 16  # of the image, in pixels
PADDLE = 3  # pixels
UPDATES = 60
# Two convolutions in place of the three that images of Atari's size get.
NET: dict[str, Any] = {
    "cnn_channels": (16, 16),
    "cnn_kernels": (4, 3),
    "cnn_strides": (2, 2),
    "hidden": (64,),
    "critic_hidden": (64,),
}


class Catch(gymnasium.Env[np.ndarray, np.int64]):
    """A ball falls, a pixel a step; the paddle on the bottom moves left, stays or moves right. The
    reward comes at the end: 1 for a catch, else -1.
    """

    observation_space = spaces.Box(0, 255, (1, SIDE, SIDE), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.row, self.column = 0, int(self.np_random.integers(SIDE))
        self.paddle = int(self.np_random.integers(SIDE - PADDLE + 1))
        return self.image(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.paddle = min(max(self.paddle + int(action) - 1, 0), SIDE - PADDLE)
        self.row += 1
        over = self.row == SIDE - 1
        caught = self.paddle <= self.column < self.paddle + PADDLE
        return self.image(), (1.0 if caught else -1.0) * over, over, False, {}

    def image(self) -> np.ndarray:
        """The ball, and the paddle in half its brightness, [1, SIDE, SIDE]."""
        pixels = np.zeros((1, SIDE, SIDE), np.uint8)
        pixels[0, -1, self.paddle : self.paddle + PADDLE] = 128
        pixels[0, self.row, self.column] = 255
        return pixels

    def save_state(self) -> dict[str, Any]:
        """What checkpoints keep of the episode under way."""
        place = [self.row, self.column, self.paddle]
        return {"place": place, "random": self.np_random.bit_generator.state}

    def load_state(self, state: dict[str, Any]) -> None:
        self.row, self.column, self.paddle = state["place"]
        self.np_random.bit_generator.state = state["random"]


SETTINGS: dict[str, Any] = {
    "num_envs": 32,
    "rows_per_update": 2048,
    "gae_lambda": 0.9,
    "max_kl": 0.02,
    "damping": 0.01,
    "critic_epochs": 6,
    "critic_minibatch": 256,
    "critic_learning_rate": 1e-3,
}


def make(**settings: Any) -> TRPO:
    """An agent for it: an image gets convolutions without being asked."""
    return TRPO(Catch, **{**NET, **SETTINGS, **settings})


def main(
    updates: int = UPDATES, out: str | None = None, settings: dict[str, Any] | None = None
) -> list[list[float]]:
    """Train, print and perhaps write the curve: steps, mean return of the last 100 episodes."""
    agent, curve = make(**settings or {}), []
    for update in range(updates):
        agent.train_once()
        mean = float(np.mean(agent.recent_returns))
        curve.append([agent.steps, mean, (1.0 + mean) / 2.0])
        if update % 5 == 4:
            print(f"{agent.steps:7d} steps: return {mean:+.2f}, {curve[-1][2]:.0%} caught")
    print(evaluate(agent, 200))
    if out is not None:
        with Path(out).open("w", newline="") as file:
            csv.writer(file).writerows([["steps", "return", "caught"], *curve])
    return curve


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else UPDATES
    main(count, sys.argv[2] if len(sys.argv) > 2 else None)
