"""Code as it runs ahead of a device, where every operator is refused that would wait for it or copy
from the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import torch
from cuda_graph import FROM_HOST, READS, asked_from, from_host, refusal, tensors
from torch.utils._python_dispatch import TorchDispatchMode

from trpo_fast._base.reads import ahead

T = TypeVar("T")

REFUSED = {
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "unique_dim",
    "unique_consecutive",
    "unique_dim_consecutive",
    "_unique",
    "_unique2",
    "equal",
    "lift_fresh",
    "bincount",
    "_linalg_check_errors",
    "_linalg_eigh",
    "_linalg_svd",
}


def why_refused(func: Any, args: Any, kwargs: dict[str, Any], out: Any, on_meta: bool) -> str:
    name = func.overloadpacket.__name__
    masks = [i for i in tensors(args[1:2]) if i.dtype == torch.bool]
    by_mask = name in ("index", "index_put", "index_put_") and bool(masks)
    counts = name == "repeat_interleave" and kwargs.get("output_size") is None
    devices = {t.device for t in tensors((args, tuple(kwargs.values()), out))}
    if not on_meta:  # forward derivatives ask there for shapes
        devices.discard(torch.device("meta"))
    unregistered = any(isinstance(v, torch.Generator) for v in (*args, *kwargs.values()))
    if name in REFUSED or by_mask or counts or unregistered or len(devices) > 1:
        return f"{name} of {sorted(map(str, devices))}"
    return ""


class NoWaits(TorchDispatchMode):
    """Raises for the first such operator, with the line that asked for it."""

    def __init__(self, on_meta: bool) -> None:
        super().__init__()
        self.operators, self._on_meta = 0, on_meta

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operators += 1
        out = func(*args, **(kwargs or {}))
        if reason := why_refused(func, args, kwargs or {}, out, self._on_meta):
            raise AssertionError(f"{reason}: {asked_from()}")
        return out


@contextmanager
def no_waits(*, on_meta: bool = False) -> Iterator[NoWaits]:
    """Around code whose tensors all lie on the CPU, or all on the meta device."""
    with pytest.MonkeyPatch.context() as patches, ahead():
        for name in READS:
            patches.setattr(torch.Tensor, name, refusal(name))
        for name in FROM_HOST:
            patches.setattr(torch, name, from_host(name, getattr(torch, name)))
        with NoWaits(on_meta) as mode:
            yield mode


def without_waits(call: Callable[[], T]) -> T:
    """What a call returns, once it is known that it waits for nothing."""
    with no_waits() as mode:
        found = call()
    assert mode.operators > 0
    return found
