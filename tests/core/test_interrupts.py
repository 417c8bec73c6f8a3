"""KeyboardInterrupt at any moment of an update: the policy's parameters are its own, with the bits
from before or those of the whole update, and the next update is as good as ever.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from campaign import numbers
from cases import Case
from torch import Tensor, nn
from torch.distributions import Categorical

from trpo_fast import Batch, Penalty, flat_params, kl_penalty_update, pg_update, trpo_update

pytestmark = pytest.mark.attack

Run = Callable[[nn.Module, Batch], Any]


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.SiLU())
        self.out = nn.Linear(6, 3)

    def forward(self, obs: Tensor) -> Categorical:
        return Categorical(logits=self.out(self.trunk(obs)))


def custom() -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    policy, obs = Custom(), torch.randn(20, 4)
    return policy, Batch(obs, torch.randint(3, (20,)), torch.randn(20))


def plain() -> tuple[nn.Module, Batch]:
    case = Case(dtype=torch.float32)
    policy = case.policy()
    return policy, case.batch(policy)


def adam(policy: nn.Module, batch: Batch) -> Any:
    return kl_penalty_update(policy, batch, Penalty(rule="fixed"), inner="adam", adam_steps=2)


def adam_by_autograd(policy: nn.Module, batch: Batch) -> Any:
    penalty = Penalty(rule="fixed")
    options: dict[str, Any] = {"inner": "adam", "adam_steps": 1, "backend": "autograd"}
    return kl_penalty_update(policy, batch, penalty, **options)


def trust_region(policy: nn.Module, batch: Batch) -> Any:
    return trpo_update(policy, batch, cg_iterations=3)


def by_autograd(policy: nn.Module, batch: Batch) -> Any:
    return trpo_update(policy, batch, cg_iterations=2, backend="autograd")


def by_optimizer(policy: nn.Module, batch: Batch) -> Any:
    return pg_update(policy, batch, optimizer=torch.optim.SGD(policy.parameters(), lr=0.01))


class Attempts:
    """Interrupted runs of one update from the same start."""

    def __init__(self, make: Callable[[], tuple[nn.Module, Batch]], run: Run) -> None:
        self.policy, self.batch = make()
        self.run = run
        self.flat = flat_params(self.policy)
        self.parameters = dict(self.policy.named_parameters())
        self.old = self.flat.clone()
        assert run(self.policy, self.batch).accepted
        self.new = self.flat.clone()
        assert not torch.equal(self.old, self.new)

    def __call__(self) -> None:
        self.flat.copy_(self.old)
        self.run(self.policy, self.batch)

    def check(self) -> None:
        torch.set_grad_enabled(True)  # torch's own context managers are no better than with
        held = dict(self.policy.named_parameters())
        assert list(held) == list(self.parameters)
        assert all(p is self.parameters[name] for name, p in held.items())
        assert flat_params(self.policy).data_ptr() == self.flat.data_ptr()
        assert torch.equal(self.flat, self.old) or torch.equal(self.flat, self.new)

    def finish(self) -> None:
        """Without an interruption the update gives the same bits as at first."""
        self()
        assert torch.equal(self.flat, self.new)


class Opcodes:
    """Counts the bytecodes of what runs, and raises KeyboardInterrupt at one of them."""

    def __init__(self, stop: int | None = None) -> None:
        self.seen, self.stop = 0, stop

    def __call__(self, frame: Any, event: str, arg: Any) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.seen += 1
            if self.seen == self.stop:
                raise KeyboardInterrupt
        return self

    def over(self, run: Callable[[], None]) -> None:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            run()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)


# torch.func's transforms survive no exception inside of their own lines: they are held against
# SIGINT below.
BYTECODES = {
    "adam, custom": (custom, adam_by_autograd),
    "adam, MLPPolicy": (plain, adam),
    "autograd, custom": (custom, by_autograd),
    "kernels": (plain, trust_region),
}


@pytest.mark.parametrize("name", BYTECODES)
def test_an_interrupt_at_any_bytecode(name: str) -> None:
    attempts = Attempts(*BYTECODES[name])
    attempts()
    whole = Opcodes()
    whole.over(attempts)
    draw = random.Random(0)
    for _ in numbers(30):
        Opcodes(draw.randint(1, whole.seen)).over(attempts)
        attempts.check()
    attempts.finish()


@pytest.fixture
def alarm() -> Iterator[Callable[[float], None]]:
    """Ctrl-C after so many seconds."""
    before = signal.getsignal(signal.SIGALRM)
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds) and None
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    signal.signal(signal.SIGALRM, before)


SIGNALS = {
    "custom": (custom, trust_region),
    "adam, custom": (custom, adam),
    "adam, MLPPolicy": (plain, adam),
    "optimizer": (plain, by_optimizer),
}


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers here")
@pytest.mark.parametrize("name", SIGNALS)
def test_ctrl_c_at_any_moment(name: str, alarm: Callable[[float], None]) -> None:
    attempts = Attempts(*SIGNALS[name])
    attempts()
    start = time.perf_counter()
    attempts()
    seconds, draw, interrupted = time.perf_counter() - start, random.Random(0), 0
    for _ in numbers(60):
        try:
            alarm(draw.uniform(1e-5, seconds))
            attempts()
            alarm(0.0)
        except KeyboardInterrupt:
            interrupted += 1
        attempts.check()
    assert interrupted > 20
    attempts.finish()
    x = torch.ones(1)  # torch's forward derivatives are in order
    assert torch.func.jvp(torch.square, (x,), (x,))[1] == 2.0


def test_other_threads_see_the_policys_own_parameters() -> None:
    policy, batch = custom()
    own, strangers, done = list(policy.parameters()), [], threading.Event()

    def look() -> None:
        while not done.is_set():
            now = [p for m in policy.modules() for p in m._parameters.values()]
            strangers.extend(p for p, q in zip(now, own, strict=True) if p is not q)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(10):
            trust_region(policy, batch)
    finally:
        done.set()
        watcher.join()
        sys.setswitchinterval(interval)
    assert not strangers
