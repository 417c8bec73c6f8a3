"""Work on a device that may be recorded and replayed: what it reads and writes, and what decides
which operators it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..policy.heads.register import registrations
from .cuda_launch import current_stream
from .fingerprint import fingerprint


@dataclass(frozen=True)
class Work:
    """``run`` takes ``inputs`` to its results, tensors and plain numbers in tuples, by operators of
    the device alone. It may write ``written``, where those lie. All that decides which operators it
    takes, beside shapes and the ``owner``, is in ``name`` and ``options``.
    """

    owner: nn.Module
    name: str
    options: Hashable
    inputs: Mapping[str, Tensor]
    written: tuple[Tensor, ...]
    run: Callable[[Mapping[str, Tensor]], Any]
    unrecordable: str = ""  # why it must not be replayed, as its caller knows
    # Why not, as a run has shown, given the tensors by address that it read from outside.
    judged: Callable[[Mapping[int, Tensor]], str] = lambda outside: ""
    generators: tuple[torch.Generator, ...] = ()  # that it may draw from
    into: tuple[Tensor, ...] = ()  # where the results go, one after the other, if not to new ones
    owner_print: Hashable = None  # of the owner, where its caller has made one before

    @property
    def device(self) -> torch.device:
        return next(iter((*self.written, *self.inputs.values()))).device

    def key(self) -> Hashable:
        """Equal for two calls that one recording serves."""
        shapes = tuple((name, t.shape, t.dtype) for name, t in self.inputs.items())
        written = tuple((t.data_ptr(), t.shape, t.dtype) for t in self.written)
        return (
            self.name,
            self.options,
            shapes,
            written,
            _settings(self.device),
            tuple(map(id, self.generators)),
            len(self.into),  # how many results there are
            fingerprint(self.owner) if self.owner_print is None else self.owner_print,
        )

    def placed(self, results: Any) -> Any:
        """The results of a run, written to ``into``."""
        if not self.into:
            return results
        for place, value in zip(self.into, results, strict=True):
            place.copy_(value)
        return self.into


class Performed(NamedTuple):
    """The results of some work, and whether they came from a replay."""

    results: Any
    captured: bool


def _settings(device: torch.device) -> Hashable:
    """The process's settings that decide which operators run, and the stream that they run on."""
    return (
        registrations(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        current_stream(device),
    )
