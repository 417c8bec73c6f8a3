"""One operator used where its own call is under way: from a signal handler inside a solve, in the
child of a fork made while another thread solves, and by threads that wait for each other. None of
them may hang, so each runs in a process of its own with a limit on its time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from limits import HANGS

from trpo_fast.backends.registry import registry

ROOT = Path(__file__).resolve().parents[2]
START = """
import os, signal, sys, threading, time
import torch
from trpo_fast import FisherOperator, Gaussian, MLPPolicy

torch.manual_seed(0)
torch.set_num_threads({threads})
policy = MLPPolicy(4, Gaussian(2), (64, 64))
obs = torch.randn(5000, 4)
F = FisherOperator(policy, obs, damping=1e-3, backend="cpu")
v = torch.randn(F.shape[0])
want = F @ v

many = torch.randn(F.shape[0], 400)

def long_solve():
    return F.solve(many, iterations=100_000)

class Enough(Exception):
    pass
"""

pytestmark = [
    pytest.mark.attack,
    pytest.mark.skipif(not registry()["cpu"].machine_support(), reason="no native code here"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
]


def finishes(script: str, threads: int) -> None:
    """The script prints ok, and ends."""
    program = START.format(threads=threads) + script
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("TRPO_FAST_EMULATE", None)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=HANGS,
        env=environment,
    )
    assert done.stdout.strip() == "ok", done.stdout + done.stderr[-2000:]
    assert done.returncode == 0


HANDLER = """
said = []
def handler(number, frame):
    try:
        F @ v
    except RuntimeError as error:
        said.append(str(error))
    other = FisherOperator(policy, obs, damping=1e-3, backend="cpu")
    said.append(torch.equal(other @ v, want))
    raise Enough

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    long_solve()
except Enough:
    pass
assert "this operator is computing in this thread" in said[0], said
assert said[1] is True and torch.equal(F @ v, want)
print("ok")
"""

FORKS = """
threading.Thread(target=long_solve, daemon=True).start()
time.sleep(0.1)
for _ in range(5):
    child = os.fork()
    if child == 0:
        ok = torch.equal(F @ v, want)
        again = threading.Thread(target=lambda: F @ v)  # the child has threads of its own
        again.start()
        again.join()
        os._exit(0 if ok and torch.equal(F @ v, want) else 1)
    limit = time.monotonic() + 60
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > limit:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            print("a child hangs", flush=True)
            os._exit(1)
        time.sleep(0.005)
print("ok", flush=True)
os._exit(0)
"""

FORK_IN_HANDLER = """
children = []
def handler(number, frame):
    children.append(os.fork())
    if children[-1] == 0:
        try:
            F @ v
        except RuntimeError as error:
            refused = "this operator is computing in this thread" in str(error)
    raise Enough

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    long_solve()
except Enough:
    pass
same = torch.equal(F @ v, want)
if children[0] == 0:
    os._exit(0 if same else 1)
_, status = os.waitpid(children[0], 0)
print("ok" if same and status == 0 else status)
"""

WAITING = """
threading.Thread(target=long_solve, daemon=True).start()
time.sleep(0.1)
def handler(number, frame):
    raise Enough

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    F @ v
    print("the other thread was done too soon", flush=True)
except Enough:
    print("ok", flush=True)
os._exit(0)
"""

TAKING_TURNS = """
results = []
def work():
    for _ in range(50):
        results.append(torch.equal(F @ v, want))

workers = [threading.Thread(target=work) for _ in range(4)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
print("ok" if len(results) == 200 and all(results) else results)
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_a_product_in_a_signal_handler_of_the_same_solve_is_a_sentence(threads: int) -> None:
    finishes(HANDLER, threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_child_forked_while_another_thread_solves_computes(threads: int) -> None:
    finishes(FORKS, threads)


def test_a_child_forked_in_the_handler_of_a_solve_goes_on() -> None:
    finishes(FORK_IN_HANDLER, 2)


def test_a_signal_ends_the_wait_for_another_threads_call() -> None:
    finishes(WAITING, 1)


def test_threads_take_turns_and_get_the_same_bits() -> None:
    finishes(TAKING_TURNS, 2)
