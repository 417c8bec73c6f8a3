"""Devices by name: whether one works here."""

from __future__ import annotations

import torch

from .arguments import fail


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
