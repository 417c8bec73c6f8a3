"""What records work on a device and does it again: a CUDA graph."""

from __future__ import annotations

import abc
from contextlib import ExitStack

import torch


class Recorder(abc.ABC):
    """Between ``begin`` and ``end`` the device's work is recorded, and may or may not be done;
    ``replay`` does it again, on the same memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.nbytes = 0  # of the memory that the recording holds

    @staticmethod
    @abc.abstractmethod
    def room(device: torch.device) -> int:
        """Bytes that all recordings on this device may hold."""

    @abc.abstractmethod
    def begin(self) -> None: ...

    @abc.abstractmethod
    def end(self) -> None:
        """Raises for what could not be recorded. It is called after an error in between, too."""

    @abc.abstractmethod
    def replay(self) -> None: ...


class CudaGraph(Recorder):
    """One torch.cuda.CUDAGraph with a pool of memory of its own."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._graph = torch.cuda.CUDAGraph()
        self._stack = ExitStack()

    @staticmethod
    def room(device: torch.device) -> int:
        return torch.cuda.get_device_properties(device).total_memory // 4

    def begin(self) -> None:
        self._stack.enter_context(torch.cuda.device(self.device))
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        # Only this thread's calls can spoil it: others may go on using the device.
        capture = torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local")
        self._stack.enter_context(capture)  # gives what torch's allocator does not need back
        self._before = torch.cuda.memory_reserved(self.device)

    def end(self) -> None:
        self._stack.close()
        self.nbytes = max(0, torch.cuda.memory_reserved(self.device) - self._before)

    def replay(self) -> None:
        self._graph.replay()


RECORDERS: dict[str, type[Recorder]] = {"cuda": CudaGraph}  # by type of device
