"""Saved environment states: after a restore, the same actions give the same bits, through a
checkpoint too.
"""

from __future__ import annotations

import copy
import functools
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trpo_fast import TRPO
from trpo_fast.envs.gym.state import restore, snapshot, unsupported
from trpo_fast.train import checkpoint

gym = pytest.importorskip("gymnasium")

CLASSIC = ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"]
TOY = ["FrozenLake-v1", "Taxi-v4", "CliffWalking-v1", "Blackjack-v1"]
MUJOCO = [
    f"{name}-v5"
    for name in (
        "Hopper HalfCheetah Walker2d Swimmer InvertedPendulum InvertedDoublePendulum Reacher Ant "
        "Humanoid HumanoidStandup Pusher"
    ).split()
]


def make(name: str) -> Any:
    if name in MUJOCO:
        pytest.importorskip("mujoco")
    return gym.make(name)


def follow(env: Any, actions: list[Any]) -> list[np.ndarray]:
    """Observations, rewards and endings of a run through autoresets."""
    seen = []
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        seen += [np.asarray(obs), np.asarray([reward, terminated, truncated])]
        if terminated or truncated:
            seen.append(np.asarray(env.reset()[0]))
    return seen


def draw(env: Any, count: int) -> list[Any]:
    env.action_space.seed(0)
    return [env.action_space.sample() for _ in range(count)]


@pytest.mark.parametrize("name", CLASSIC + TOY + MUJOCO)
def test_a_fresh_environment_continues_a_saved_one(name: str, tmp_path: Path) -> None:
    env, other = make(name), make(name)
    assert unsupported(env) is None
    env.reset(seed=7)
    other.reset(seed=8)
    actions = draw(env, 90)
    follow(env, actions[:40])
    path = checkpoint.save(tmp_path / "state", {"env": snapshot(env)})
    first = follow(env, actions[40:])
    restore(other, checkpoint.load(path)["env"])
    second = follow(other, actions[40:])
    assert len(first) == len(second)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_one_snapshot_branches_many_times() -> None:
    env = make("Hopper-v5")
    env.reset(seed=1)
    actions = draw(env, 60)
    follow(env, actions[:20])
    saved = snapshot(env)
    runs = []
    for _ in range(3):
        restore(env, saved)
        runs.append(follow(env, actions[20:]))
    assert all(np.array_equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


def test_the_time_limit_and_wrappers_are_part_of_the_state() -> None:
    from gymnasium import wrappers

    def build() -> Any:
        env = wrappers.RecordEpisodeStatistics(gym.make("Pendulum-v1", max_episode_steps=50))
        env = wrappers.NormalizeReward(wrappers.NormalizeObservation(env))
        return wrappers.FrameStackObservation(env, 3)

    env, other = build(), build()
    env.reset(seed=3)
    other.reset(seed=4)
    actions = draw(env, 100)
    follow(env, actions[:30])
    restore(other, snapshot(env))
    first, second = follow(env, actions[30:]), follow(other, actions[30:])
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ["step", "spec", "render_fps_of_nobody"])
def test_a_state_reaches_only_what_the_adapter_lists(name: str) -> None:
    env = make("CartPole-v1")
    env.reset(seed=0)
    for part in ("core", "wrapper"):
        saved = snapshot(env)
        owner = saved["core"] if part == "core" else saved["wrappers"][0]
        owner[name] = "planted"
        with pytest.raises(ValueError, match=f"expected attributes .* got '{name}'"):
            restore(env, saved)
    assert env.step(0)


def test_a_state_reaches_only_the_derived_fields_of_mujoco() -> None:
    env = make("Hopper-v5")
    env.reset(seed=0)
    saved = snapshot(env)
    saved["mujoco"]["ctrl"] = np.full(3, 7.0)
    restore(env, saved)
    assert not (env.unwrapped.data.ctrl == 7.0).any()


def hopper(**members: Any) -> Any:
    """A user's subclass of gymnasium's Hopper, wrapped as usual."""
    pytest.importorskip("mujoco")
    from gymnasium.envs.mujoco.hopper_v5 import HopperEnv

    env = gym.wrappers.TimeLimit(type("Mine", (HopperEnv,), members)(), 30)
    env.reset(seed=1)
    return env


def random_simulator(self: Any) -> Any:
    """Another simulator in every episode: an array, a number, flags and the statistics."""
    model, draw = self.model, self.np_random
    model.body_mass[1] = draw.uniform(1.0, 9.0)
    model.geom_friction[:, 0] = draw.uniform(0.2, 3.0)
    model.geom_contype[2] = int(draw.integers(2))
    model.jnt_limited[3] = bool(draw.integers(2))
    model.opt.timestep = float(draw.uniform(0.001, 0.003))
    model.opt.gravity[2] = draw.uniform(-12.0, -5.0)
    model.stat.meaninertia = float(draw.uniform(0.5, 2.0))
    return super(type(self), self).reset_model()


def random_settings(self: Any) -> Any:
    """Another solver in every episode."""
    model, draw = self.model, self.np_random
    model.opt.iterations = int(draw.integers(1, 100))
    model.opt.integrator = int(draw.integers(2))
    model.opt.cone = int(draw.integers(2))
    model.geom_condim[:] = draw.choice([1, 3, 4], len(model.geom_condim))
    model.geom_priority[1] = draw.integers(3)
    return super(type(self), self).reset_model()


def drawn_noise(self: Any, action: Any) -> Any:
    """Observations with noise from a generator that is the environment's own."""
    obs, *rest = super(type(self), self).step(action)
    vars(self).setdefault("mine", np.random.default_rng(5))
    return obs + self.mine.normal(size=obs.shape), *rest


def through_a_view(self: Any) -> Any:
    """Writes to the simulator by a view of its memory."""
    self.mass = self.model.body_mass
    self.mass[1:] = self.np_random.uniform(1.0, 9.0, 4)
    return super(type(self), self).reset_model()


def from_a_space(self: Any, action: Any) -> Any:
    """Rewards with noise that spaces draw."""
    obs, reward, *rest = super(type(self), self).step(action)
    box = gym.spaces.Box(0.0, 1.0)
    more = vars(self).setdefault("more", gym.spaces.Dict({"a": gym.spaces.Tuple([box])}))
    return obs, reward + self.action_space.sample()[0] + more.sample()["a"][0].item(), *rest


@pytest.mark.parametrize(
    "members",
    [
        {"step": from_a_space},
        {"reset_model": random_simulator},
        {"reset_model": random_settings},
        {"step": drawn_noise},
        {"reset_model": through_a_view},
    ],
    ids=["space", "model", "settings", "generator", "view"],
)
def test_a_subclass_that_changes_more_than_the_physics_continues(
    members: Any, tmp_path: Path
) -> None:
    env, other = hopper(**members), hopper(**members)
    actions = draw(env, 120)
    follow(other, actions[:1])
    follow(env, actions[:50])
    assert unsupported(env) is None
    path = checkpoint.save(tmp_path / "state", {"env": snapshot(env)})
    first = follow(env, actions[50:])
    restore(other, checkpoint.load(path)["env"])
    second = follow(other, actions[50:])
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def lists_for_tuples(tree: Any) -> Any:
    """A state as the files of earlier versions held it."""
    if isinstance(tree, dict):
        return {key: lists_for_tuples(item) for key, item in tree.items()}
    return [lists_for_tuples(item) for item in tree] if isinstance(tree, list | tuple) else tree


@pytest.mark.parametrize("old", [False, True])
def test_containers_inside_containers_come_back_as_they_were(old: bool, tmp_path: Path) -> None:
    env, other = hopper(), hopper()
    kept = {
        "cells": [(0, 1), (2, [3])],
        "by": {"a": (1, 2), "recent": deque([(1.0,)], maxlen=3)},
        "corner": ((0, 0), np.arange(2).tolist()),
    }
    vars(env.unwrapped).update(kept, trail=[] if old else [(5, 6)])
    vars(other.unwrapped).update(copy.deepcopy(kept), trail=[])
    saved = checkpoint.load(checkpoint.save(tmp_path / "state", snapshot(env)))
    restore(other, lists_for_tuples(saved) if old else saved)
    for name in (*kept, "trail"):
        assert repr(vars(other.unwrapped)[name]) == repr(vars(env.unwrapped)[name])


def test_a_loaded_taxi_continues_with_its_masks(tmp_path: Path) -> None:
    agent = TRPO("Taxi-v4", num_envs=2, rows_per_update=256, seed=3)
    agent.start()
    agent.collector.collect()
    agent.save(tmp_path / "taxi")
    other = TRPO.load(tmp_path / "taxi")
    pair = agent.collector.collect(), other.collector.collect()
    for name in ("obs", "actions", "rewards", "mask"):
        assert torch.equal(*(getattr(rollout, name) for rollout in pair)), name


GOALS = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])


def a_task(self: Any) -> Any:
    """A row of a table that all environments share."""
    self.goal = GOALS[int(self.np_random.integers(3))]
    return super(type(self), self).reset_model()


def test_a_table_that_an_attribute_is_a_row_of_stays_as_it_is() -> None:
    env, table = hopper(reset_model=a_task), GOALS.copy()
    saved, goal = snapshot(env), env.unwrapped.goal.copy()
    for seed in range(10):
        env.reset(seed=seed)
        restore(env, saved)
        assert np.array_equal(GOALS, table)
        assert np.array_equal(env.unwrapped.goal, goal)


def test_a_space_that_was_never_drawn_from_repeats_its_draws() -> None:
    env = hopper(step=from_a_space)
    env.unwrapped.more = gym.spaces.Dict({"a": gym.spaces.Tuple([gym.spaces.Box(0.0, 1.0)])})
    saved, rewards = snapshot(env), []
    for _ in range(2):
        rewards.append(env.step(np.zeros(3))[1])
        restore(env, saved)
    assert rewards[0] == rewards[1]


class Noise:
    """Can be called, and has state."""

    last = 0.0

    def __call__(self, size: float = 1.0) -> float:
        self.last += size
        return self.last


@pytest.mark.parametrize(
    "kept",
    [
        object(),
        {7: 1.0},
        [np.random.RandomState(0)],
        Noise(),
        Noise().__call__,
        functools.partial(Noise(), 2.0),
    ],
    ids=lambda kept: type(kept).__name__,
)
def test_a_subclass_that_keeps_what_cannot_be_saved_is_named(kept: Any) -> None:
    env = hopper()
    assert unsupported(env) is None
    env.unwrapped.kept = kept
    assert "Mine keeps kept, which cannot be saved" in (unsupported(env) or "")
    env.unwrapped.save_state = env.unwrapped.load_state = lambda *state: {}
    assert unsupported(env) is None


def test_integers_of_a_model_that_are_no_settings_are_refused() -> None:
    env = hopper()
    model, saved = env.unwrapped.model, snapshot(env)
    model.opt.iterations, model.jnt_group[1] = 7, 2
    with pytest.raises(ValueError, match=r"expected jnt_group .* to be 2 as it is here, got 0"):
        restore(env, saved)
    assert model.opt.iterations == 7
    model.jnt_group[1] = 0
    restore(env, saved)
    assert model.opt.iterations == 100
    model.opt.solver = 1
    saved["mujoco"]["integers"][:] = 99
    with pytest.raises(ValueError, match="got 99, which cannot be restored"):
        restore(env, saved)


def test_a_model_of_another_size_is_refused() -> None:
    env = hopper()
    saved = snapshot(env)
    saved["mujoco"]["model"] = saved["mujoco"]["model"][:-1]
    with pytest.raises(ValueError, match="numbers of a MuJoCo model, got"):
        restore(env, saved)
    del saved["mujoco"]["model"]  # as earlier versions saved it
    restore(env, saved)


def test_functions_are_no_state() -> None:
    env = hopper()
    core = env.unwrapped
    for function in (len, np.tanh, np.clip, int, draw, lambda: 0, functools.cache(draw), core.step):
        core.kept, core.by_name = function, functools.partial(function, 1.0)
        assert unsupported(env) is None, function


class Counter(gym.Env):
    """An environment with a state adapter of its own."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self.hidden = [0.0]
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> Any:
        self.hidden[0] += float(action)
        return np.array(self.hidden, np.float32), 1.0, False, False, {}


class SavingCounter(Counter):
    def save_state(self) -> dict[str, float]:
        return {"count": self.hidden[0]}

    def load_state(self, state: dict[str, float]) -> None:
        self.hidden = [state["count"]]


def test_an_environment_may_bring_its_own_adapter() -> None:
    env = SavingCounter()
    env.reset(seed=0)
    env.step(1)
    saved = snapshot(env)
    env.step(1)
    restore(env, saved)
    assert env.step(0)[0].tolist() == [1.0]


def test_environments_without_an_adapter_are_named() -> None:
    assert "Counter has no state adapter" in (unsupported(Counter()) or "")
    other = SavingCounter()
    with pytest.raises(ValueError, match="expected one of an environment with 3 wrappers"):
        other.reset(seed=0)
        env = gym.make("CartPole-v1")
        env.reset(seed=0)
        restore(env, snapshot(other))
