"""What stands for a CUDA graph on a machine without a GPU: the operators of some work, written down
as they run, and run again on the same memory. Whatever the host decided or made meanwhile is done
as it was, as in a graph.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cuda_graph import FROM_HOST, READS, from_host, refusal, tensors, waits
from torch.utils._python_dispatch import TorchDispatchMode

from trpo_fast.backends import captured, recorder
from trpo_fast.backends.watch import address


class Tape(recorder.Recorder, TorchDispatchMode):
    """Records torch's operators; refuses what a captured stream does."""

    memory = 1 << 30  # of the pretended device

    def __init__(self, device: torch.device) -> None:
        TorchDispatchMode.__init__(self)
        recorder.Recorder.__init__(self, device)
        self._tape: list[Any] = []
        self._generators: list[torch.Generator] = []
        self.replays = 0

    @staticmethod
    def room(device: torch.device) -> int:
        return Tape.memory

    def draws_from(self, generator: torch.Generator) -> None:
        self._generators.append(generator)

    def begin(self) -> None:
        self._patches = pytest.MonkeyPatch()
        for name in READS:
            self._patches.setattr(torch.Tensor, name, refusal(name))
        for name in FROM_HOST:
            self._patches.setattr(torch, name, from_host(name, getattr(torch, name)))
        self.__enter__()

    def end(self) -> None:
        self.__exit__(None, None, None)
        self._patches.undo()
        held = {address(t): t for *_, out in self._tape for t in tensors(out)}
        self.nbytes = sum(t.untyped_storage().nbytes() for place, t in held.items() if place)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if name := waits(func, args):
            raise RuntimeError(f"{name} while a stream is captured")
        drawn = [v for v in (*args, *(kwargs or {}).values()) if isinstance(v, torch.Generator)]
        if any(all(g._cdata != known._cdata for known in self._generators) for g in drawn):
            raise RuntimeError("a draw from a generator that is not registered")
        out = func(*args, **(kwargs or {}))
        self._tape.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, out in self._tape:
            again = func(*args, **kwargs)
            for old, new in zip(tensors(out), tensors(again), strict=True):
                if address(old) != address(new) and old.shape == new.shape:
                    old.copy_(new)


@pytest.fixture
def recording(monkeypatch):
    """Work on the CPU is recorded as on a GPU; what is known of it is forgotten afterwards."""
    monkeypatch.setitem(recorder.RECORDERS, "cpu", Tape)
    captured.GRAPHS.clear()
    yield captured.GRAPHS
    captured.GRAPHS.clear()
