"""Copies stepped by several processes: the same bits as in one."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")

from envs_for_tests import Counting, Masked
from gymnasium import spaces

from trpo_fast.envs.engines import make_host
from trpo_fast.envs.gym.host import EnvError, HostEnvs
from trpo_fast.envs.workers import pool as module
from trpo_fast.envs.workers.pool import WorkerEnvs, start_method

COPIES = 5


def follow(envs: HostEnvs, steps: int, draw: np.random.Generator) -> list[np.ndarray]:
    """Copies of all that some random steps gave."""
    space, seen = envs.action_space, []
    for _ in range(steps):
        if isinstance(space, spaces.Discrete):
            actions: Any = draw.integers(0, space.n, envs.num_envs)
        else:
            actions = draw.uniform(space.low, space.high, (envs.num_envs, *space.shape))
            actions = actions.astype(np.float32)
        obs, rewards, terminated, truncated, infos = envs.step(actions)
        seen += [np.array(x) for x in (obs, rewards, terminated, truncated)]
        seen += [envs.final_obs(infos, i) for i in np.flatnonzero(terminated | truncated)]
    return seen


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))


@pytest.mark.parametrize("workers", [0, 1, 2, 4, 9])
@pytest.mark.parametrize("name", ["CartPole-v1", "Hopper-v5"])
def test_any_number_of_workers_gives_the_bits_of_sync(name: str, workers: int) -> None:
    if name == "Hopper-v5":
        pytest.importorskip("mujoco")
    ours = make_host(name, COPIES, engine="workers", workers=workers)
    sync = make_host(name, COPIES)
    for seed in (3, [9, 8, 7, 6, 5]):
        first, second = ours.reset(seed)[0], sync.reset(seed)[0]
        assert np.array_equal(first, second) and first.dtype == second.dtype
        runs = [follow(envs, 120, np.random.default_rng(1)) for envs in (ours, sync)]
        assert same(*runs)
    assert len(ours.venv.processes) == min(workers, COPIES - 1)
    ours.close()


def test_copies_are_cut_evenly_and_this_process_gets_no_more_than_others() -> None:
    assert module._split_copies(8, 2) == [range(0, 4), range(4, 8)]
    assert module._split_copies(8, 3) == [range(0, 2), range(2, 5), range(5, 8)]
    for copies in range(1, 20):
        for parts in range(1, copies + 1):
            cut = module._split_copies(copies, parts)
            assert [i for chunk in cut for i in chunk] == list(range(copies))
            assert len(cut) == parts and len(cut[0]) == copies // parts


class Keeping(Counting):
    """Keeps the action that it was given, and is rewarded for its change."""

    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def step(self, action: Any) -> Any:
        change = float(np.abs(action - getattr(self, "before", 0.0)).sum())
        self.before = action
        obs, _, *rest = super().step(action)
        return obs, change, *rest


@pytest.mark.parametrize("workers", [0, 1])
def test_an_action_that_an_environment_keeps_does_not_change(workers: int) -> None:
    runs = []
    for options in ({"engine": "workers", "workers": workers}, {"engine": "sync"}):
        envs = make_host(Keeping, 4, **options)
        envs.reset(seed=0)
        runs.append(follow(envs, 12, np.random.default_rng(1)))
        envs.close()
    assert same(*runs)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_closures_reach_workers_however_they_are_started(method: str) -> None:
    length = 3
    envs = WorkerEnvs([lambda: Counting(length)] * 3, 2, method=method)
    envs.reset(seed=0)
    for t in range(1, 8):
        obs, _, terminated, _, _ = envs.step(np.zeros(3, np.int64))
        assert obs[:, 1].tolist() == [t % 3] * 3 and terminated.all() == (t % 3 == 0)
    envs.close()


def test_states_go_back_to_the_copies_they_came_from() -> None:
    ours = make_host("CartPole-v1", COPIES, engine="workers", workers=2)
    sync = make_host("CartPole-v1", COPIES)
    for envs in (ours, sync):
        envs.reset(4)
        follow(envs, 30, np.random.default_rng(0))
    picked = [[s["core"]["state"] for s in envs.state([4, 0, 3])] for envs in (ours, sync)]
    assert ours.unsupported() is None and same(*picked)
    saved, after = ours.state(), follow(sync, 30, np.random.default_rng(2))
    follow(ours, 11, np.random.default_rng(5))
    ours.load_state(saved)
    assert same(follow(ours, 30, np.random.default_rng(2)), after)
    ours.close()
    other = make_host(Counting, 2, engine="workers", workers=1)
    assert "Counting has no state adapter" in str(other.unsupported())


class Seeded(Counting):
    """Tells copies apart by the seed they were reset with."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        self.copy = seed if seed is not None else self.copy
        return super().reset(seed=seed, options=options)


class FailsInCopyTwo(Seeded):
    def step(self, action: Any) -> Any:
        if self.copy == 2 and self.count == 1:
            self.count += 1
            raise ZeroDivisionError("the simulator is broken")
        return super().step(action)


def test_an_error_in_a_worker_is_named_and_leaves_it_in_step() -> None:
    envs = make_host(FailsInCopyTwo, 3, engine="workers", workers=2)
    envs.reset(0)
    actions = np.zeros(3, np.int64)
    envs.step(actions)
    with pytest.raises(EnvError, match=r"in step: ZeroDivisionError: the simulator") as caught:
        envs.step(actions)
    assert "in a worker process:\nTraceback" in str(caught.value.__cause__.__cause__)
    assert envs.step(actions)[0][:, 1].tolist() == [3.0, 3.0, 3.0]
    envs.close()


def test_action_masks_come_from_every_process() -> None:
    runs = []
    for options in ({}, {"engine": "workers", "workers": 2}):
        envs = make_host(Masked, 3, **options)
        masks = [envs.masks(envs.reset(0)[1], 3)]
        for _ in range(9):
            masks.append(envs.masks(envs.step(masks[-1].argmax(1))[4], 3))
        runs.append(masks)
        envs.close()
    assert same(*runs)


class Global(Counting):
    """Draws from the generator that all environments of a process share."""

    def _obs(self) -> np.ndarray:
        return np.random.random(2).astype(np.float32)


def test_global_generators_differ_between_processes_and_repeat_between_runs() -> None:
    runs = []
    for _ in range(2):
        envs = make_host(Global, 3, engine="workers", workers=2, seed=7)
        runs.append(envs.reset(0)[0].copy())
        envs.close()
    assert len(np.unique(runs[0][1:])) == 4 and np.array_equal(runs[0][1:], runs[1][1:])


def test_defaults_follow_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, wanted in ((1, 0), (3, 2), (16, 3)):
        monkeypatch.setattr(module, "usable_cores", lambda cores=cores: cores)
        envs = make_host(Counting, 4, engine="workers")
        assert len(envs.venv.processes) == wanted
        envs.close()
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    assert start_method() == ("fork" if sys.platform == "linux" else "spawn")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert start_method() == "spawn"
