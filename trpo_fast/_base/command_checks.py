"""Checks of counts that a command line gives beside settings, and of a device by its name."""

from __future__ import annotations

import os

import torch

from .arguments import MAX_INT, check_count, fail


def check_size(option: str, value: int, *, least: int = 1) -> int:
    """An integer from ``least`` to MAX_INT."""
    if isinstance(value, int) and value > MAX_INT:
        raise fail(option, f"an integer from {least} to {MAX_INT}", value)
    return check_count(option, value, least=least)


def check_alone(command: str) -> None:
    """Refuse to be one of several processes of torchrun: each would train a policy of its own."""
    ranks = os.environ.get("WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" in os.environ and ranks != "1":
        raise fail(
            command,
            "one process (docs/processes.md has loops of several)",
            f"rank {os.environ.get('RANK')} of torchrun's {ranks} processes",
        )


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
