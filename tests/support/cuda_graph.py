"""A CUDA graph of a call: a real one on a device, otherwise the emulator's, which records launches
and torch's operators in turn, runs no kernel meanwhile and refuses what waits for a device.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cuda_support import EMULATED, Emulator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trpo_fast.policy.flat import Snapshot
from trpo_fast.updates import compiled as ops

# Operators whose answer the host needs before it can go on.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero")


# Methods that read a CPU tensor past all operators, and on a device would wait.
READS = ("tolist", "numpy", "cpu", "__array__")


def refusal(name: str) -> Callable[..., Any]:
    def refuse(self: Tensor, *_: Any, **__: Any) -> Any:
        raise RuntimeError(f"{name} while a stream is captured: {asked_from()}")

    return refuse


def waits(func: Any, args: tuple[Any, ...]) -> str:
    """The operator's name if the host waits for its answer, otherwise empty."""
    name = func.overloadpacket.__name__
    by_mask = name in ("index", "index_put_") and any(
        i is not None and i.dtype == torch.bool for i in args[1]
    )
    return name if by_mask or name.startswith(WAITS) else ""


def asked_from() -> str:
    """The line of the package that is running."""
    frames = [f for f in traceback.extract_stack() if "/trpo_fast/" in f.filename]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "a test"


def no_values_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot compares values of CPU tensors; on a device it does not."""
    monkeypatch.setattr(Snapshot, "changed", lambda self: self._counters() != self._versions)


class HostGraph(TorchDispatchMode):
    """torch.cuda.graph for the emulator. Its tape keeps tensors alive, as a graph's pool does."""

    def __init__(self) -> None:
        super().__init__()
        self._emulator = Emulator()
        self._tape: list[Any] = []  # numbers of launches, and operators with what they returned
        self._launches = 0

    def __enter__(self) -> Any:
        self._emulator.capture(True)
        self._patches = pytest.MonkeyPatch()
        for name in READS:
            self._patches.setattr(torch.Tensor, name, refusal(name))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.undo()
        self._note_launches()
        self._emulator.capture(False)

    def _note_launches(self) -> None:
        while self._launches < self._emulator.recorded():
            self._tape.append(self._launches)
            self._launches += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if name := waits(func, args):
            raise RuntimeError(f"{name} while a stream is captured: {asked_from()}")
        self._note_launches()
        if func.namespace == "trpo_fast":  # an operator of ours: what it is made of is recorded
            with self._again():
                return getattr(ops, func.overloadpacket.__name__)._init_fn(*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        if not any(t.is_meta for t in tensors((args, out))):
            self._tape.append((func, args, kwargs or {}, out))
        return out

    @contextlib.contextmanager
    def _again(self) -> Iterator[None]:
        super().__enter__()
        try:
            yield
        finally:
            super().__exit__(None, None, None)

    @torch.no_grad()
    def replay(self) -> None:
        for entry in self._tape:
            if isinstance(entry, int):
                self._emulator.replay(entry)
                continue
            func, args, kwargs, out = entry
            for old, new in zip(tensors(out), tensors(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr() and old.shape == new.shape:
                    old.copy_(new)  # (of another shape: an empty tensor that set_ then moved)

    @property
    def launches(self) -> int:
        return self._launches


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for v in value for t in tensors(v)] if isinstance(value, (tuple, list)) else []


def capture(call: Callable[[], Any]) -> tuple[Any, Any]:
    """The graph of a call, and what the call returned. On a device the call runs before, once, to
    load its kernels.
    """
    if EMULATED:
        graph: Any = HostGraph()
        with graph:
            return graph, call()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph, result
