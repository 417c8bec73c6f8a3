"""Timing: contenders take turns in one process, so that a clock that drifts or another
program that starts slows all of them alike.

A turn of a fast call is a short burst whose first call is not counted: it pays for waking the
thread pool that the previous contender's turn put to sleep. A call that takes longer than a burst
is timed on its own. Every reported time is a median over all counted calls.
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from ..core.problem import BackendUnavailable

T = TypeVar("T")

BURST_SECONDS = 0.02
# Long enough for the spinning workers of OpenMP to give their cores back to the next contender.
REST_SECONDS = 0.01


@dataclass
class Contender:
    """One thing to time. ``reset`` runs before every call and is not timed."""

    name: str
    precision: str
    call: Callable[[], Any]
    reset: Callable[[], None] | None = None
    times: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Of the times so far, in seconds."""
        return statistics.median(self.times)

    def once(self, wait: Callable[[], None]) -> float:
        """Seconds of one call, the wait for the device included."""
        if self.reset is not None:
            self.reset()
            wait()
        start = time.perf_counter()
        self.call()
        wait()
        return time.perf_counter() - start


def waiter(device: str) -> Callable[[], None]:
    """What makes the host wait for the device: nothing on a CPU."""
    return torch.cuda.synchronize if device.startswith("cuda") else lambda: None


def captured(call: Callable[[], T], *generators: torch.Generator) -> Callable[[], T]:
    """The replay of a CUDA graph of a call, which may draw from ``generators``; like the call it
    returns the tensors that hold the answer.
    """
    graph, answer = record(call, *generators)
    return functools.partial(_replay, graph, answer, call)


def _replay(graph: Any, answer: T, call: Callable[[], T]) -> T:
    """``call`` is only kept: the graph has addresses of what it holds."""
    graph.replay()
    return answer


def record(call: Callable[[], T], *generators: torch.Generator) -> tuple[Any, T]:
    """The graph of a call, and what the call returned while it was captured."""
    if not torch.cuda.is_available():
        raise BackendUnavailable("a CUDA graph: expected a CUDA device, got none")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()  # loads what is loaded once
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        return graph, call()


def finished(call: Callable[[], Any], device: str) -> Callable[[], None]:
    """The call and the wait for what it has started: all that a clock on the host may time."""
    wait = waiter(device)

    def run() -> None:
        call()
        wait()

    return run


def measure(
    contenders: Sequence[Contender],
    *,
    seconds: float = 2.0,
    least: int = 5,
    device: str = "cpu",
    warm_up: int = 2,
) -> None:
    """Fill ``times`` of every contender: at least ``least`` turns each, and about ``seconds`` each
    on average.
    """
    wait = waiter(device)
    estimates = [_warm(contender, wait, warm_up) for contender in contenders]
    stop = time.perf_counter() + seconds * len(contenders)
    turns = 0
    while turns < least or time.perf_counter() < stop:
        for contender, estimate in zip(contenders, estimates, strict=True):
            _turn(contender, estimate, wait)
        turns += 1


def _warm(contender: Contender, wait: Callable[[], None], calls: int) -> float:
    for _ in range(calls):
        estimate = contender.once(wait)
    return estimate


def _turn(contender: Contender, estimate: float, wait: Callable[[], None]) -> None:
    time.sleep(REST_SECONDS)
    if estimate < BURST_SECONDS:
        contender.once(wait)
    for _ in range(max(1, int(BURST_SECONDS / estimate))):
        contender.times.append(contender.once(wait))


# A spinner ends on its own when the process that started it is gone.
_SPINNER = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(10**6):
        pass
"""


@contextmanager
def busy_processes(count: int) -> Iterator[list[int]]:
    """``count`` processes that do nothing but use a core; yields their process ids."""
    processes = [subprocess.Popen([sys.executable, "-c", _SPINNER]) for _ in range(count)]
    try:
        if processes:
            time.sleep(0.5)
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


@contextmanager
def thread_count(count: int | None) -> Iterator[int]:
    """torch's number of threads, put back afterwards; our pool follows it."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def sgemm(device: str, size: int | None = None) -> tuple[Contender, int]:
    """Square float32 matrix product of torch: the fp32 roofline, and its flops."""
    size = size or (8192 if device.startswith("cuda") else 1536)
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    out = torch.empty_like(a)
    return Contender("sgemm", "fp32", lambda: torch.mm(a, b, out=out)), 2 * size**3


def copy_rate(device: str, seconds: float = 0.3) -> float:
    """Bytes read and written per second by a copy much larger than the caches."""
    source = torch.zeros(2**28 if device.startswith("cuda") else 2**27, device=device)
    target = torch.empty_like(source)
    contender = Contender("copy", "fp32", lambda: target.copy_(source))
    measure([contender], seconds=seconds, least=3, device=device)
    return 2 * source.numel() * source.element_size() / contender.median
