"""Copies stepped by several processes: the same bits as in one, and no process that outlives its
use, whatever happens.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")

from envs_for_tests import Counting, Masked
from gymnasium import spaces

from trpo_fast.envs import workers as module
from trpo_fast.envs.host import EnvError, HostEnvs, make_host
from trpo_fast.envs.workers import WorkerEnvs, start_method

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


def gone(pids: list[int], seconds: float = 10.0) -> bool:
    """Whether the processes end in time; zombies are ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        stats = [Path(f"/proc/{pid}/stat") for pid in pids]
        alive = [
            s for s in stats if s.exists() and s.read_text().rpartition(")")[2].split()[0] != "Z"
        ]
        if not alive:
            return True
        time.sleep(0.02)
    return False


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
    assert module._cut(8, 2) == [range(0, 4), range(4, 8)]
    assert module._cut(8, 3) == [range(0, 2), range(2, 5), range(5, 8)]
    for copies in range(1, 20):
        for parts in range(1, copies + 1):
            cut = module._cut(copies, parts)
            assert [i for chunk in cut for i in chunk] == list(range(copies))
            assert len(cut) == parts and len(cut[0]) == copies // parts


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


class OtherSpaces(Counting):
    def __init__(self) -> None:
        super().__init__()
        if os.getpid() != int(os.environ["TRPO_FAST_TEST_PARENT"]):
            self.action_space = spaces.Discrete(5)


class FailsToStart(Counting):
    def __init__(self) -> None:
        super().__init__()
        assert os.getpid() == int(os.environ["TRPO_FAST_TEST_PARENT"]), "no such device"


@pytest.mark.parametrize(
    ("env", "message"),
    [(OtherSpaces, "expected the same spaces of every copy"), (FailsToStart, "no such device")],
)
def test_workers_that_cannot_start_are_sentences(
    env: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRPO_FAST_TEST_PARENT", str(os.getpid()))
    with pytest.raises((ValueError, EnvError), match=message):
        make_host(env, 3, engine="workers", workers=1)


@pytest.mark.parametrize("when", ["step", "state"])
def test_a_killed_worker_is_a_clear_error_and_the_others_end(when: str) -> None:
    envs = make_host("CartPole-v1", 4, engine="workers", workers=3)
    envs.reset(0)
    pids = [process.pid for process in envs.venv.processes]
    os.kill(pids[1], signal.SIGKILL)
    died = r"a worker process died \(killed by SIGKILL\), and with it copies 2 to 2"
    for _ in range(2):
        with pytest.raises(EnvError, match=died):
            envs.step(np.zeros(4, np.int64)) if when == "step" else envs.state()
    envs.close()
    assert gone(pids)


def test_workers_end_with_their_environments() -> None:
    shared = sorted(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else []
    envs = [make_host(Counting, 3, engine="workers", workers=2) for _ in range(2)]
    pids = [[process.pid for process in e.venv.processes] for e in envs]
    if shared:
        assert sorted(os.listdir("/dev/shm")) == shared
    envs[0].close()
    envs[0].close()
    assert gone(pids[0]) and not gone(pids[1], 0.1)
    envs.clear()
    gc.collect()
    assert gone(pids[1])


SCRIPT = """
import sys, time
from trpo_fast.envs.host import make_host
envs = make_host("CartPole-v1", 3, engine="workers", workers=2)
envs.reset(0)
print(*[process.pid for process in envs.venv.processes], flush=True)
while "forever" in sys.argv:
    envs.step(envs.venv.single_action_space.sample() * [1, 1, 1])
"""


@pytest.mark.parametrize("how", ["killed", "interrupted", "exits"])
def test_no_worker_outlives_the_process_it_works_for(how: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    more = [] if how == "exits" else ["forever"]
    root = Path(__file__).resolve().parent.parent
    main = subprocess.Popen(
        [sys.executable, script, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert main.stdout is not None
    pids = [int(pid) for pid in main.stdout.readline().split()]
    assert len(pids) == 2
    if how != "exits":
        time.sleep(0.2)
        main.send_signal(signal.SIGKILL if how == "killed" else signal.SIGINT)
    main.wait(20)
    assert gone(pids)


def test_interruptions_leave_orders_and_answers_in_step() -> None:
    envs, sync = make_host(Counting, 3, engine="workers", workers=2), make_host(Counting, 3)
    envs.reset(0)
    actions, hits, draw = np.zeros(3, np.int64), 0, random.Random(0)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        while hits < 60:
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-5, 1e-3))
                while True:
                    envs.step(actions)
            except KeyboardInterrupt:
                hits += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    fresh = [e.reset(0)[0][:, 1].tolist() for e in (envs, sync)]
    runs = [[e.step(actions)[1].tolist() for _ in range(20)] for e in (envs, sync)]
    assert fresh[0] == fresh[1] and runs[0] == runs[1]
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
