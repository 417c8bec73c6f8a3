"""A small agent that samples by vine, and an environment whose branches are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from envs_for_tests import Counting

from trpo_fast.train.trainer import TRPO
from trpo_fast.train.vine import Vine

SMALL: dict[str, Any] = {
    "sampling": "vine",
    "num_envs": 3,
    "rows_per_update": 60,
    "hidden": (16,),
    "critic_hidden": (16,),
    "vine_states": 20,
    "vine_length": 9,
}


def sampled(env: Any, **settings: Any) -> tuple[Vine, Any, Any, Any, int]:
    agent = TRPO(env, **{**SMALL, **settings})
    agent.start()
    assert agent.vine is not None
    rollout, states = agent.vine.collect()
    batch, steps = agent.vine.batch(rollout, states)
    return agent.vine, rollout, states, batch, steps


class Walk(Counting):
    """Position moves by the action minus one; reward is the position; saves its own state."""

    def _obs(self) -> np.ndarray:
        return np.array([self.position, self.count], np.float32)

    def reset(self, **options: Any) -> Any:
        self.position = 0.0
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        self.position += float(action) - 1.0
        obs, _, _, truncated, info = super().step(action)
        return obs, self.position, False, truncated or self.count >= 50, info

    def save_state(self) -> dict[str, Any]:
        return {"position": self.position, "count": self.count, "episode": self.episode}

    def load_state(self, state: dict[str, Any]) -> None:
        self.position, self.count, self.episode = (
            state[name] for name in ("position", "count", "episode")
        )
