"""Ctrl-C at any line of training: no episode counts a row twice, checkpoints are those of whole
updates, and training goes on from them as if nothing had happened.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

import gymnasium
from gymnasium import spaces
from gymnasium.vector import sync_vector_env

from trpo_fast import TRPO, collect, collect_tensor, rollout, trainer
from trpo_fast.envs import host
from trpo_fast.envs.tensor import base
from trpo_fast.envs.tensor.base import TensorEnv, box

LENGTH = 7  # of every episode, which pays one a step; rollouts are shorter
# Where steps are taken and counted; lines of other files (such as the update's) are not numbered.
MODULES = (collect, collect_tensor, rollout, trainer, host, base, sync_vector_env)
NUMBERED = {__file__, *(str(module.__file__) for module in MODULES)}


class Paying(gymnasium.Env):
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)
    count = 0

    def save_state(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state(self, state: dict[str, Any]) -> None:
        self.count = state["count"]

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        over = self.count >= LENGTH
        return np.full(1, self.count, np.float32), 1.0, over, False, {}


class PayingTensors(TensorEnv):
    state_size = 1
    max_episode_steps = LENGTH
    single_observation_space = box(-np.inf, np.inf, 1)
    single_action_space = box(-1.0, 1.0, 1)

    def initial(self, count: int) -> Tensor:
        return self.uniform(count, -1.0, 1.0, 1)

    def dynamics(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return state + 0.1, torch.ones(self.num_envs), None

    def observe(self, state: Tensor) -> Tensor:
        return state


class InterruptedAt:
    """Ctrl-C before the line with this number of those that run inside."""

    def __init__(self, number: float) -> None:
        self.left, self.lines = number, 0

    def __enter__(self) -> InterruptedAt:
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename in NUMBERED else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.lines += 1
            if self.lines == self.left:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._line


def small(engine: str, mode: str = "SAME_STEP") -> TRPO:
    settings: dict[str, Any] = {"rows_per_update": 12, "hidden": (4,), "critic_hidden": (4,)}
    if engine == "tensor":
        return TRPO(PayingTensors(3), **settings)
    if engine == "vector":
        autoreset = gymnasium.vector.AutoresetMode[mode]
        venv = gymnasium.vector.SyncVectorEnv([Paying] * 3, autoreset_mode=autoreset)
        return TRPO(venv, **settings)
    return TRPO(Paying, num_envs=3, **settings)


@pytest.mark.parametrize("engine", ["sync", "vector", "tensor"])
def test_no_return_exceeds_an_episode_wherever_ctrl_c_comes(engine: str) -> None:
    agent = small(engine, "NEXT_STEP")
    agent.train_once()
    with InterruptedAt(np.inf) as whole:
        agent.train_once()
    for number in (*range(1, whole.lines, 5), *range(whole.lines - 90, whole.lines)):
        with InterruptedAt(number) as interrupted, pytest.raises(KeyboardInterrupt):
            agent.train_once()
            agent.train_once()
        assert interrupted.lines == number
        for _ in range(4):
            agent.collect()
        assert set(agent.recent_returns) == {float(LENGTH)}, f"interrupted at line {number}"
        assert set(agent.recent_lengths) == {LENGTH}, f"interrupted at line {number}"
        agent.recent_returns.clear()
        agent.recent_lengths.clear()


@pytest.mark.parametrize("engine", ["sync", "tensor"])
def test_a_checkpoint_after_ctrl_c_knows_what_was_not_counted(engine: str, tmp_path: Path) -> None:
    agent = small(engine)
    agent.train_once()
    with InterruptedAt(np.inf) as whole:
        agent.train_once()
    for number in np.random.default_rng(1).integers(1, whole.lines + 1, 30):
        with InterruptedAt(int(number)), pytest.raises(KeyboardInterrupt):
            agent.train_once()
            agent.train_once()
        agent.save(tmp_path / "c")
        source: Any = Paying if engine == "sync" else PayingTensors(3)
        resumed = TRPO.load(tmp_path / "c", source)
        for _ in range(4):
            resumed.collect()
        assert set(resumed.recent_returns) == {float(LENGTH)}, f"interrupted at line {number}"
