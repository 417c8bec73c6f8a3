"""Checks of what a command line gives beside settings: counts, and a device by name."""

from __future__ import annotations

import torch

from .arguments import check_count, fail

LARGEST = 2**31 - 1  # of what the kernels and torch count in C++ ints


def check_size(option: str, value: int, *, least: int = 1) -> int:
    """An integer from ``least`` to LARGEST."""
    if isinstance(value, int) and value > LARGEST:
        raise fail(option, f"an integer from {least} to {LARGEST}", value)
    return check_count(option, value, least=least)


def working_device(name: str) -> torch.device:
    """The device of this name, on which tensors can be made and read; another one is refused in a
    sentence with torch's reason. (On "meta" tensors have no numbers.)
    """
    try:
        tensor = torch.zeros(1, device=name)
        tensor.item()
    except (RuntimeError, AssertionError, TypeError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise fail("device", "one that works here", f"{name!r}: {why}") from error
    return tensor.device
