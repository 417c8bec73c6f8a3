"""What every launch on a CUDA device needs: the connected kernels, the device, its stream, and the
errors of its runtime as sentences.

Operators, actors, fits and advantages launch through these.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch

from .._base import extension
from ..core.problem import BackendUnavailable
from .cuda_machine import emulation_library


@functools.cache
def connected() -> ModuleType:
    """The native module with the kernels' table connected."""
    with explained():
        library = str(emulation_library()) if extension.emulating() else ""
        extension.native.cuda_connect(library)
    return extension.native


class DeviceFault(BackendUnavailable):
    """The device ended an earlier launch, whoever made it, and refuses all work of this process."""


def _current(device: torch.device | None) -> contextlib.AbstractContextManager[Any]:
    """Makes a device current where another one is. Left to the kernels' core, going back would make
    a context, of hundreds of megabytes, on a device that had none: torch goes back without.
    """
    if device is None or device.type != "cuda":
        return contextlib.nullcontext()
    if device_index(device) == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(device)


@contextlib.contextmanager
def explained(launches_on: torch.device | None = None) -> Iterator[None]:
    """The CUDA runtime's sentence as the reason why this backend cannot serve. Launches say where
    they go.
    """
    try:
        with _current(launches_on):
            yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if isinstance(error, BackendUnavailable):
            raise
        if _is_fault(error):
            raise DeviceFault(
                "backend='cuda' failed after a fault of the device, which leaves unknown what "
                f"earlier launches have written; start the process anew: {error}"
            ) from error
        raise BackendUnavailable(f"backend='cuda' failed, nothing was changed: {error}") from error


def _is_fault(error: RuntimeError) -> bool:
    native = extension.module()
    if native is not None and isinstance(error, native.CudaFault):
        return True
    return not isinstance(error, torch.OutOfMemoryError) and str(error).startswith("CUDA error")


def place() -> str:
    """The type of device whose tensors the kernels read."""
    return "cpu" if extension.emulating() else "cuda"


def device_index(device: torch.device) -> int:
    return device.index or 0  # the emulated device is number 0


def current_stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured on the device's current stream."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()
