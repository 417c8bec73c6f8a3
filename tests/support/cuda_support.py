"""Where the CUDA tests run: on a CUDA device where there is one, otherwise in the emulator."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import Case
from torch import Tensor

from trpo_fast import Batch, MLPPolicy
from trpo_fast._base import extension
from trpo_fast.backends.cuda import CudaOperator
from trpo_fast.backends.cuda_machine import emulation_library
from trpo_fast.backends.reference import ReferenceOperator
from trpo_fast.core import checks
from trpo_fast.core.problem import Problem
from trpo_fast.updates.problems import make_problem

EMULATED = not torch.cuda.is_available()
DEVICE = torch.device("cpu") if EMULATED else torch.device("cuda", 0)


def why_not() -> str | None:
    native = extension.module()
    if native is None:
        return extension.why_missing()
    return None if "cuda" in native.families else "this build contains no CUDA kernels"


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """Imported by every CUDA test file: the kernels are connected, or the test is skipped."""
    if reason := why_not():
        pytest.skip(reason)
    if EMULATED:
        monkeypatch.setenv("TRPO_FAST_EMULATE", "1")
        schedule()


class Emulator:
    """The emulation library's own entries."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(emulation_library()))
        self._library.trpo_emulation_schedule.argtypes = [
            ctypes.c_int,
            ctypes.c_uint64,
            ctypes.c_float,
        ]
        self._library.trpo_emulation_device.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_uint64]
        self._library.trpo_emulation_calls.restype = ctypes.c_char_p

    def schedule(self, order: int, seed: int, preempt: float) -> None:
        self._library.trpo_emulation_schedule(order, seed, preempt)

    def device(self, multiprocessors: int, shared_limit: int, number: int = 0) -> None:
        self._library.trpo_emulation_device(number, multiprocessors, shared_limit)

    def room(self, occupancy: int = -1, at_once: int = -1, number: int = 0) -> None:
        """Blocks that a multiprocessor holds, and that a cooperative launch may have; -1: as for a
        kernel with all the registers it may have.
        """
        self._library.trpo_emulation_room(number, occupancy, at_once)

    def linger(self, microseconds: int) -> None:
        """Before every call of the runtime, so that those of several threads meet."""
        self._library.trpo_emulation_linger(microseconds)

    def devices(self, count: int) -> None:
        self._library.trpo_emulation_devices(count)

    def current_device(self) -> int:
        return self._library.trpo_emulation_current_device()

    def last_error(self) -> int:
        """What a call has left for the next one that asks cudaGetLastError."""
        return self._library.trpo_emulation_last_error()

    def calls(self) -> list[tuple[str, int]]:
        """The CUDA runtime's, since the last time: the name of each and the current device."""
        words = self._library.trpo_emulation_calls().decode().split()
        return [(name, int(device)) for name, device in (word.split("@") for word in words)]

    def fail(self, call: str, error: int, skip: int = 0) -> None:
        """Have the runtime call of that name fail once, after so many others of it."""
        self._library.trpo_emulation_fail(call.encode(), error, skip)

    def capture(self, on: bool) -> None:
        """Record launches in place of running them."""
        self._library.trpo_emulation_capture(int(on))

    def recorded(self) -> int:
        return self._library.trpo_emulation_recorded()

    def replay(self, number: int) -> None:
        assert self._library.trpo_emulation_replay(number) == 0

    def counters(self) -> list[int]:
        """Since the last call, in the order of emulation::Counters."""
        counters = (ctypes.c_uint64 * 8)()
        self._library.trpo_emulation_counters(counters, 1)
        return list(counters)

    def grid_barriers(self) -> int:
        """Since the last call."""
        return self.counters()[4]


def schedule(order: int = 1, seed: int = 1, preempt: float = 0.0) -> None:
    """0 first in first out, 1 last in first out, 2 random; nothing to choose on a device."""
    if EMULATED:
        Emulator().schedule(order, seed, preempt)


@contextlib.contextmanager
def small_device(multiprocessors: int = 4, shared_kib: int = 227) -> Iterator[None]:
    """Another pretended device."""
    if not EMULATED:
        pytest.skip("a real device has the limits it has")
    Emulator().device(multiprocessors, shared_kib * 1024)
    try:
        yield
    finally:
        Emulator().device(4, 0)


def to_device(batch: Batch, dtype: torch.dtype | None = None, device: Any = DEVICE) -> Batch:
    def move(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        return value.to(device, dtype if value.is_floating_point() else None)

    names = ("obs", "actions", "advantages", "log_probs", "weights", "action_mask", "old_params")
    return replace(batch, **{name: move(getattr(batch, name)) for name in names})


def problem(policy: MLPPolicy, batch: Batch, **options: Any) -> Problem:
    _, theta = checks.check_policy(policy)
    checked = checks.check_batch(policy, theta, batch)
    return make_problem(policy, checked, theta=theta, **({"damping": 0.1} | options))


class Trio:
    """One case three times: the kernels, and the reference in float32 and float64."""

    def __init__(self, case: Case, *, grid: int = 0, atomics: bool = False, **options: Any) -> None:
        case = replace(case, dtype=torch.float32)
        self.policy = case.policy().to(DEVICE)
        batch = case.batch(case.policy())
        self.batch = to_device(batch)
        on_device = problem(self.policy, self.batch, **options)
        self.kernels = CudaOperator(on_device, grid=grid, atomics=atomics)
        self.single = ReferenceOperator(problem(case.policy(), batch, **options))
        exact = to_device(batch, torch.float64, "cpu")
        self.exact = ReferenceOperator(problem(case.policy().double(), exact, **options))

    def vector(self, columns: int | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        size = self.exact.theta.numel()
        return torch.randn((size,) if columns is None else (columns, size), generator=generator)
