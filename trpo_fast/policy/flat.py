"""The one flat vector that holds a module's parameters, and whether they were written since.

``flat_params(module)`` is a view [P] of every parameter in order: W1, b1, ..., WL, bL, then
log_std. The module's own parameters are views into the same buffer, so an optimiser, a kernel and
``load_state_dict`` all write the same memory.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .._base.arguments import fail
from .._base.reads import may_read


def every_parameter(module: nn.Module) -> list[nn.Parameter]:
    """``list(module.parameters())`` at a sixth of its time: every operator and update asks."""
    found: dict[int, nn.Parameter] = {}
    pending: list[nn.Module | None] = [module]
    while pending:
        current = pending.pop()
        if current is None:
            continue
        for p in current._parameters.values():
            if p is not None:
                found[id(p)] = p
        if current._modules:
            pending.extend(reversed(current._modules.values()))
    return list(found.values())


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters an update moves, in the order of the flat vector."""
    return [p for p in every_parameter(module) if p.requires_grad]


class _Found(NamedTuple):
    """What ``flat_params`` found and made last, which saves most of its time at every operator;
    ``flat`` keeps the addresses from being reused.
    """

    parameters: list[nn.Parameter]
    addresses: list[int]
    flat: Tensor

    def holds(self, parameters: list[nn.Parameter]) -> bool:
        if len(parameters) != len(self.parameters):
            return False
        pairs = zip(parameters, self.parameters, strict=True)
        return (
            all([p is q and p.is_contiguous() and not p.is_neg() for p, q in pairs])
            and [p.data_ptr() for p in parameters] == self.addresses
        )


_found: weakref.WeakKeyDictionary[nn.Module, _Found] = weakref.WeakKeyDictionary()


_laying = threading.RLock()


def _after_fork() -> None:
    """A child may have been forked while another thread held the lock."""
    global _laying
    _laying = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def flat_params(module: nn.Module) -> Tensor:
    """A view [P] of the module's trainable parameters: writing it writes them, and the reverse.

    The first call (and the first after ``module.to`` has moved them) copies the parameters into one
    buffer and points them there; they stay the same ``nn.Parameter`` objects, so optimisers and
    state dicts are undisturbed.
    """
    try:
        parameters = trainable(module)
    except AttributeError:
        if isinstance(module, nn.Module):
            raise
        raise fail("module", "a torch.nn.Module", type(module).__name__) from None
    known = _found.get(module)
    if known is None or not known.holds(parameters):
        known = _find(module, parameters)
    return known.flat.detach()


def _find(module: nn.Module, parameters: list[nn.Parameter]) -> _Found:
    """Lay the parameters out, one thread at a time: two that point them into buffers of their own
    would leave some in either.
    """
    with _laying, torch.inference_mode(False):  # a view made in there could not be written outside
        known = _found.get(module)
        while known is None or not known.holds(parameters):
            flat = _lay_flat(parameters)
            if _lies_in(flat, parameters):  # else a signal's handler has laid them elsewhere
                addresses = [p.data_ptr() for p in parameters]
                known = _found[module] = _Found(parameters, addresses, flat)
        return known


def _lay_flat(parameters: list[nn.Parameter]) -> Tensor:
    if not parameters:
        raise ValueError(
            "module: expected at least one parameter that requires a gradient, got none"
        )
    first = parameters[0]
    dtype, device = first.dtype, first.device
    if any(p.dtype != dtype or p.device != device for p in parameters):
        kinds = sorted({str((p.dtype, p.device)) for p in parameters})
        raise ValueError(f"module: expected parameters of one dtype on one device, got {kinds}")
    if any(p.is_inference() for p in parameters):
        raise ValueError(
            "module: expected parameters that can be trained, got some made under "
            "torch.inference_mode()"
        )
    size = sum(p.numel() for p in parameters)
    if not _contiguous_chain(parameters):
        flat = torch.cat([p.detach().reshape(-1) for p in parameters])
        offset = 0
        for p in parameters:
            p.data = flat[offset : offset + p.numel()].view(p.shape)
            offset += p.numel()
        return flat
    view = torch.empty(0, dtype=dtype, device=device)
    return view.set_(first.untyped_storage(), first.storage_offset(), (size,), (1,))


def _lies_in(flat: Tensor, parameters: list[nn.Parameter]) -> bool:
    """Whether they lie one after the other in ``flat``; on the meta device nothing lies at all."""
    begin = address = flat.data_ptr()
    for p in parameters:
        if begin and p.numel() and p.data_ptr() != address:
            return False
        address += p.nbytes
    return True


def _contiguous_chain(parameters: list[nn.Parameter]) -> bool:
    """Whether they lie one after the other in the first one's storage."""
    first = parameters[0]
    begin = address = first.data_ptr()
    for p in parameters:
        if p.data_ptr() != address or not p.is_contiguous() or p.is_neg():
            return False
        address += p.nbytes
    storage = first.untyped_storage()
    return address - begin <= storage.nbytes() - first.storage_offset() * first.element_size()


def write_params(module: nn.Module, flat: Tensor, value: Tensor) -> None:
    """Overwrite the parameters in place and let every snapshot of them know."""
    flat.copy_(value)
    mark_written(module)


def mark_written(module: nn.Module) -> None:
    """Bump the version counters after a write that went past autograd, through the flat view or a
    raw pointer.
    """
    torch.autograd.graph.increment_version(trainable(module))


class Snapshot:
    """Whether the parameters have been written since the moment of a copy."""

    def __init__(self, module: nn.Module, flat: Tensor, theta: Tensor) -> None:
        self.module, self.flat, self.theta = module, flat, theta  # flat_params(module), its copy
        self._versions = self._counters()

    def _counters(self) -> list[tuple[int, int]]:
        return [(p._version, p.data_ptr()) for p in trainable(self.module)]

    def changed(self) -> bool:
        """True once a parameter was written, moved or replaced. On CPU the values are compared as
        well.
        """
        if self._counters() != self._versions:
            return True
        return may_read(self.flat.device) and not torch.equal(self.flat, self.theta)
