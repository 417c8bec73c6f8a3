"""What records work on a device and does it again: a CUDA graph."""

from __future__ import annotations

import abc
import functools
from contextlib import ExitStack

import torch


class Recorder(abc.ABC):
    """Between ``begin`` and ``end`` the device's work is recorded, and may or may not be done;
    ``replay`` does it again, on the same memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.nbytes = 0  # of the memory that the recording holds
        self.spoiled = False  # whether this one failed, and took all earlier ones with it

    @staticmethod
    @abc.abstractmethod
    def room(device: torch.device) -> int:
        """Bytes that all recordings on this device may hold."""

    @abc.abstractmethod
    def draws_from(self, generator: torch.Generator) -> None:
        """Have every replay draw from it anew, as the work would; before ``begin``."""

    @abc.abstractmethod
    def begin(self) -> None: ...

    @abc.abstractmethod
    def end(self) -> None:
        """Raises for what could not be recorded. It is called after an error, too, also one of
        ``begin``.
        """

    @abc.abstractmethod
    def replay(self) -> None: ...


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Where graphs are captured: one stream a device, as torch keeps a workspace for each."""
    return torch.cuda.Stream(device)


class CudaGraph(Recorder):
    """One torch.cuda.CUDAGraph with a pool of memory of its own."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._graph = torch.cuda.CUDAGraph()
        self._stack = ExitStack()
        self._capturing = False
        self._generators: list[torch.Generator] = []  # kept: their ids are in keys

    @staticmethod
    def room(device: torch.device) -> int:
        return torch.cuda.get_device_properties(device).total_memory // 4

    def draws_from(self, generator: torch.Generator) -> None:
        self._graph.register_generator_state(generator)
        self._generators.append(generator)

    def begin(self) -> None:
        self._stack.enter_context(torch.cuda.device(self.device))
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # so that what is reserved from now on is the graph's
        self._before = torch.cuda.memory_reserved()
        self._stack.enter_context(torch.cuda.stream(_stream(self.device)))
        # Only this thread's calls can spoil it: others may go on using the device.
        self._graph.capture_begin(capture_error_mode="thread_local")
        self._capturing = True

    def end(self) -> None:
        with self._stack:
            if self._capturing:
                self._capturing = False
                try:
                    self._graph.capture_end()
                except BaseException:
                    self._mend_generators()
                    raise
                self.nbytes = max(0, torch.cuda.memory_reserved() - self._before)

    def _mend_generators(self) -> None:
        """Versions of torch leave generators within a capture that failed, for good; earlier graphs
        know the state that is replaced, and cannot be replayed any more.
        """
        every = (torch.cuda.default_generators[torch.cuda.current_device()], *self._generators)
        for generator in every:
            state = generator.get_state()
            try:
                torch.empty(1, device=self.device).uniform_(generator=generator)
            except RuntimeError:
                generator.graphsafe_set_state(generator.clone_state())
                self.spoiled = True
            generator.set_state(state)

    def replay(self) -> None:
        self._graph.replay()


RECORDERS: dict[str, type[Recorder]] = {"cuda": CudaGraph}  # by type of device
