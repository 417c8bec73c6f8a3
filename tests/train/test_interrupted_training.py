"""Ctrl-C at any line of training: no episode counts a row twice, checkpoints are those of whole
updates, and training goes on from them as if nothing had happened.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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
from campaign import TIMES
from gymnasium import spaces
from gymnasium.vector import sync_vector_env
from limits import HANGS
from small_runs import FLAGS, SMALL, parameters

from trpo_fast import TRPO
from trpo_fast.cli.runs import CHECKPOINT
from trpo_fast.envs.gym import host
from trpo_fast.envs.tensor import base
from trpo_fast.envs.tensor.base import TensorEnv, box
from trpo_fast.train import checkpoint, collect_tensor, rollout, trainer
from trpo_fast.train import collect_host as collect
from trpo_fast.train.loggers import read_progress

pytestmark = pytest.mark.attack

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
    for number in (
        *range(1, whole.lines, max(1, 10 // TIMES)),
        *range(whole.lines - 90, whole.lines),
    ):
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


class AtStep(gymnasium.Wrapper):
    """Somebody presses Ctrl-C while the ``presses`` steps with these numbers are taken."""

    taken, presses = 0, ()

    def step(self, action: Any) -> Any:
        type(self).taken += 1
        if self.taken in self.presses:
            signal.raise_signal(signal.SIGINT)
        return super().step(action)


def pressed(*presses: int) -> Any:
    """CartPole in which Ctrl-C comes at these steps."""
    kind = type("Pressed", (AtStep,), {"presses": presses})
    return lambda: kind(gymnasium.make("CartPole-v1"))


plain = pressed()


@pytest.mark.parametrize("when", [1, 64, 65, 300])
def test_ctrl_c_saves_the_update_it_came_in_and_training_goes_on_from_there(
    when: int, tmp_path: Path
) -> None:
    """The step that Ctrl-C comes in belongs to an update, which is finished, logged and saved."""
    path, records = tmp_path / "c", []
    agent = TRPO(pressed(when), **SMALL)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(640, checkpoint_path=path, callbacks=lambda _, record: records.append(record))
    updates = -(-when // 64)
    assert checkpoint.load(path)["counters"][:2] == [64 * updates, updates]
    assert (agent.updates, len(records)) == (updates, updates)
    whole = TRPO(plain, **SMALL).learn(640)
    resumed = TRPO.load(path, plain)
    assert torch.equal(parameters(resumed), parameters(TRPO(plain, **SMALL).learn(64 * updates)))
    resumed.learn(640 - resumed.steps)
    assert torch.equal(parameters(resumed), parameters(whole))
    assert list(resumed.recent_returns) == list(whole.recent_returns)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_ends_at_once_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    path, agent = tmp_path / "c", TRPO(pressed(150, 152), **SMALL)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(640, checkpoint_path=path, checkpoint_every=1)
    assert agent.envs.venv.envs[1].taken == 152  # in the middle of the third rollout
    resumed = TRPO.load(path, plain)
    assert resumed.updates == 2
    assert torch.equal(parameters(resumed), parameters(TRPO(plain, **SMALL).learn(128)))


def test_without_a_checkpoint_the_first_ctrl_c_ends_at_once() -> None:
    agent = TRPO(pressed(100), **SMALL)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(640)
    assert agent.envs.venv.envs[1].taken == 100 and agent.updates == 1


def test_the_handler_of_another_program_is_left_alone(tmp_path: Path) -> None:
    came = []
    signal.signal(signal.SIGINT, lambda *_: came.append(True))
    agent = TRPO(pressed(100), **SMALL).learn(192, checkpoint_path=tmp_path / "c")
    assert came == [True] and agent.updates == 3


def test_training_in_a_thread_needs_no_handler(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        agent = TRPO(plain, **SMALL)
        assert pool.submit(agent.learn, 64, checkpoint_path=tmp_path / "c").result().updates == 1


@pytest.mark.parametrize("engine", ["sync", "workers", "async"])
def test_the_command_saves_before_it_ends(engine: str, tmp_path: Path) -> None:
    """Ctrl-C in a terminal reaches every process of the run."""
    words = ["train", "CartPole-v1", "--out", str(tmp_path), "--engine", engine, *FLAGS]
    command = [sys.executable, "-m", "trpo_fast", *words, "--checkpoint-every", "100000"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert run.stderr is not None
    for line in run.stderr:
        if line.split()[:1] == ["3"]:
            break
    os.killpg(run.pid, signal.SIGINT)
    said = run.stderr.read()
    assert run.wait(HANGS) == 130 and "continue with trpo-fast resume" in said
    saved = checkpoint.load(tmp_path / CHECKPOINT)["counters"][1]
    assert saved >= 3 and saved == read_progress(tmp_path)["update"][-1]
    wanted = TRPO("CartPole-v1", **SMALL, seed=5).learn(64 * saved)
    assert torch.equal(
        parameters(TRPO.load(tmp_path / CHECKPOINT, device="cpu")), parameters(wanted)
    )
