"""Code as it runs ahead of a device, where every operator is refused that would wait for it or copy
from the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import pytest
import torch
from cuda_graph import FROM_HOST, READS, asked_from, from_host, refusal, tensors
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

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


class NoWaits(TorchDispatchMode):
    """Raises for the first such operator, with the line that asked for it."""

    def __init__(self, on_meta: bool, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.operators, self._on_meta, self._generators = 0, on_meta, generators

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operators += 1
        out = func(*args, **(kwargs or {}))
        if reason := self._refusal(func, args, kwargs or {}, out):
            raise AssertionError(f"{reason}: {asked_from()}")
        return out

    def _refusal(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> str:
        name = func.overloadpacket.__name__
        masks = [i for i in tensors(args[1:2]) if i.dtype == torch.bool]
        by_mask = name in ("index", "index_put", "index_put_") and bool(masks)
        counts = name == "repeat_interleave" and kwargs.get("output_size") is None
        devices = {t.device for t in tensors((args, tuple(kwargs.values()), out))}
        if not self._on_meta:  # forward derivatives ask there for shapes
            devices.discard(torch.device("meta"))
        known = [generator._cdata for generator in self._generators]
        drawn = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Generator)]
        strange = any(generator._cdata not in known for generator in drawn)
        if name in REFUSED or by_mask or counts or strange or len(devices) > 1:
            return f"{name} of {sorted(map(str, devices))}"
        return ""


def _outside_modes(make: Callable[..., T], *given: Any, **named: Any) -> T:
    """A tensor that is to stay on the host."""
    with _disable_current_modes():
        return make(*given, **named)


@contextmanager
def no_waits(
    *, on_meta: bool = False, generators: Sequence[torch.Generator] = ()
) -> Iterator[NoWaits]:
    """Around code whose tensors all lie on the CPU, or all on the meta device; it may draw from
    ``generators``, which a graph would know.
    """
    with pytest.MonkeyPatch.context() as patches, ahead():
        for name in READS:
            patches.setattr(torch.Tensor, name, refusal(name))
        for name in FROM_HOST:
            stays = partial(_outside_modes, getattr(torch, name))
            patches.setattr(torch, name, from_host(name, stays))
        with NoWaits(on_meta, generators) as mode:
            yield mode


def without_waits(call: Callable[[], T]) -> T:
    """What a call returns, once it is known that it waits for nothing."""
    with no_waits() as mode:
        found = call()
    assert mode.operators > 0
    return found
