"""A CUDA graph of a call: a real one on a device, otherwise the emulator's, which records launches
and torch's operators in turn, runs no kernel meanwhile and refuses what a capture on a device does:
what waits, tensors made from the host's numbers, generators that the graph does not know.
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
READS = ("tolist", "numpy", "cpu", "__array__", "new_tensor")


def refusal(name: str) -> Callable[..., Any]:
    def refuse(self: Tensor, *_: Any, **__: Any) -> Any:
        raise RuntimeError(f"{name} while a stream is captured: {asked_from()}")

    return refuse


# Ways from the host's numbers to a tensor, which for a tensor of a device are copies. One that is
# to stay on the host says device="cpu" in so many words: the emulated device is an object.
FROM_HOST = ("tensor", "as_tensor", "asarray", "from_numpy", "frombuffer")


def from_host(name: str, make: Callable[..., Any]) -> Callable[..., Any]:
    refuse = refusal(f"torch.{name} of the host's numbers")

    def made(*given: Any, **named: Any) -> Any:
        stays = isinstance(given[0], Tensor) or named.get("device") == "cpu"
        return make(*given, **named) if stays else refuse(*given)

    return made


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
        self._generators = [torch.default_generator]
        self._emulator = Emulator()
        self._tape: list[Any] = []  # numbers of launches, and operators with what they returned
        self._launches = 0

    def register_generator_state(self, generator: torch.Generator) -> None:
        """As of torch.cuda.CUDAGraph: the graph may draw from it."""
        self._generators.append(generator)

    def __enter__(self) -> Any:
        self._emulator.capture(True)
        self._patches = pytest.MonkeyPatch()
        for name in READS:
            self._patches.setattr(torch.Tensor, name, refusal(name))
        for name in FROM_HOST:
            self._patches.setattr(torch, name, from_host(name, getattr(torch, name)))
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
        if name := waits(func, args) or self._forbidden(args, kwargs or {}):
            raise RuntimeError(f"{name} while a stream is captured: {asked_from()}")
        self._note_launches()
        if func.namespace == "trpo_fast":  # an operator of ours: what it is made of is recorded
            with self._again():
                return getattr(ops, func.overloadpacket.__name__)._init_fn(*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        if not any(t.is_meta for t in tensors((args, out))):
            self._tape.append((func, args, kwargs or {}, out))
        return out

    def _forbidden(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """What of this call no stream can record, although it does not wait."""
        for value in (*args, *kwargs.values()):
            if not isinstance(value, torch.Generator):
                continue
            if value._cdata not in [known._cdata for known in self._generators]:
                return "a draw from a generator that is not registered with the graph"
        return ""

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


def capture(call: Callable[[], Any], *generators: torch.Generator) -> tuple[Any, Any]:
    """The graph of a call, which may draw from ``generators`` beside torch's own, and what the call
    returned. On a device the call runs before, once, to load its kernels.
    """
    if EMULATED:
        graph: Any = HostGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        with graph:
            return graph, call()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        result = call()
    return graph, result
