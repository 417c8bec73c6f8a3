"""Worker processes: how they wait, and that none outlives its use, whatever happens."""

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
from limits import HANGS

from trpo_fast.envs.engines import make_host
from trpo_fast.envs.errors import EnvError
from trpo_fast.envs.workers import worker
from trpo_fast.envs.workers.shared import SPINS, SpinSemaphore

pytestmark = pytest.mark.attack

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def gone(pids: list[int], seconds: float = HANGS) -> bool:
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


class Silent:
    """A context whose semaphore counts tries, and is released only when told."""

    def __init__(self) -> None:
        self.tries, self.released = 0, False

    def Semaphore(self, value: int) -> Silent:
        return self

    def acquire(self, block: bool, patience: float | None = None) -> bool:
        self.tries += not block
        return self.released


def test_waits_in_vain_spin_ever_less_often() -> None:
    silent = Silent()
    semaphore, spins = SpinSemaphore(silent), []
    for _ in range(400):
        before = silent.tries
        assert not semaphore.acquire(0.0)
        spins.append(silent.tries - before)
    assert [i for i, n in enumerate(spins) if n] == [
        0,
        1,
        3,
        7,
        15,
        31,
        63,
        127,
        191,
        255,
        319,
        383,
    ]
    silent.released = True
    for _ in range(70):
        assert semaphore.acquire(0.0)
    silent.tries, silent.released = 0, False
    assert not semaphore.acquire(0.0) and silent.tries == SPINS


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


def test_a_script_that_cannot_be_imported_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import gymnasium\nfrom trpo_fast.envs.workers.pool import WorkerEnvs\n"
        "WorkerEnvs([lambda: gymnasium.make('CartPole-v1')] * 2, 1, method='spawn')\n"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, env=ENVIRONMENT)
    assert run.returncode == 1
    assert 'a script needs `if __name__ == "__main__":`' in run.stderr.splitlines()[-1]


class WithTorch(Counting):
    """Simulates with torch, as learned models do: large enough for several threads."""

    def step(self, action: Any) -> Any:
        wide = torch.ones(600, 600)
        obs, _, terminated, truncated, info = super().step(action)
        return obs, float((wide @ wide)[0, 0]), terminated, truncated, info


def test_torch_works_in_workers_though_the_main_process_has_used_its_threads() -> None:
    torch.set_num_threads(2)
    try:
        torch.ones(600, 600) @ torch.ones(600, 600)
        envs = make_host(WithTorch, 3, engine="workers", workers=2)
        envs.reset(0)
        for _ in range(3):
            assert envs.step(np.zeros(3, np.int64))[1].tolist() == [600.0] * 3
        envs.close()
    finally:
        torch.set_num_threads(1)


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


def test_a_fork_of_the_main_process_leaves_the_workers_alone() -> None:
    envs = [make_host(Counting, 2, engine="workers", workers=1)]
    envs[0].reset(0)
    child = os.fork()
    if child == 0:
        try:
            envs[0].close()
            envs.clear()
            gc.collect()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert envs[0].step(np.zeros(2, np.int64))[1].tolist() == [1.0, 1.0]
    envs[0].close()


def test_a_worker_leaves_the_core_that_it_shares_with_the_main_process() -> None:
    cores = worker._usable()
    if len(cores) < 2:
        pytest.skip("one usable core")
    aside = os.fork()
    if aside == 0:  # its own main process: certainly on the same core
        try:
            worker._leave_core_of(os.getpid(), cores)
        finally:
            os._exit(len(worker._usable()))
    assert os.waitstatus_to_exitcode(os.waitpid(aside, 0)[1]) == len(cores) - 1
    worker._leave_core_of(2**22 + 1, cores)  # no such process
    assert worker._usable() == cores


SCRIPT = """
import sys
import numpy as np
from trpo_fast.envs.engines import make_host
envs = make_host("CartPole-v1", 3, engine="workers", workers=2)
envs.reset(0)
print(*[process.pid for process in envs.venv.processes], flush=True)
while "forever" in sys.argv:
    envs.step(np.ones(3, int))
"""


@pytest.mark.parametrize("how", ["killed", "interrupted", "exits"])
def test_no_worker_outlives_the_process_it_works_for(how: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    more = [] if how == "exits" else ["forever"]
    main = subprocess.Popen(
        [sys.executable, script, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
    )
    assert main.stdout is not None
    pids = [int(pid) for pid in main.stdout.readline().split()]
    assert len(pids) == 2
    if how != "exits":
        time.sleep(0.2)
        assert main.poll() is None and not gone(pids, 0.05)
        main.send_signal(signal.SIGKILL if how == "killed" else signal.SIGINT)
    main.wait(HANGS)
    assert gone(pids)


@pytest.mark.parametrize(("at", "taken"), [("here", [0, 1, 1]), ("release", [0, 1, 0])])
def test_an_interrupted_steps_answers_are_not_taken_for_the_next_ones(
    at: str, taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    envs = make_host(Masked, 3, engine="workers", workers=2)
    envs.reset(0)
    venv = envs.venv
    ordered = venv._workers[0].channel.ordered
    owner, name = (venv._here, "step") if at == "here" else (ordered, "release")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupt)
        with pytest.raises(KeyboardInterrupt):
            envs.step(np.zeros(3, np.int64))
    masks = envs.masks(envs.step(np.array(taken))[4], 3)
    assert masks.argmax(1).tolist() == [count + 1 for count in taken]
    envs.close()


def test_an_interrupted_message_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(message: Any) -> None:
        raise KeyboardInterrupt

    envs = make_host("CartPole-v1", 2, engine="workers", workers=1)
    envs.reset(0)
    monkeypatch.setattr(envs.venv._workers[0].pipe, "send", interrupt)
    with pytest.raises(KeyboardInterrupt):
        envs.state()
    pids = [process.pid for process in envs.venv.processes]
    for _ in range(2):
        with pytest.raises(EnvError, match="interrupted in the middle of a message; make it anew"):
            envs.step(np.zeros(2, np.int64))
    envs.close()
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
