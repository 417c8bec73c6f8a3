"""What of a module decides which operators it runs, and on what memory: kinds of modules, where
parameters and buffers lie, hooks, and every number, word and flag that a module holds.
"""

from __future__ import annotations

from collections.abc import Hashable
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_parameter_registration_hooks",
)
_PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


def fingerprint(module: nn.Module, tensors: list[Tensor] | None = None) -> Hashable:
    """Equal for two calls between which nothing of the module has changed but values of tensors,
    which are added to ``tensors``.

    What a forward reads from further away is not seen: globals, objects in other objects.
    """
    seen = _Seen({}, [] if tensors is None else tensors)
    whole = nn.modules.module
    hooks = tuple(tuple(vars(whole).get(name, ())) for name in _GLOBAL_HOOKS)
    return (hooks, _of(module, seen))


class _Seen(NamedTuple):
    """What was met on the way: containers by id, each with its number, and tensors."""

    numbers: dict[int, int]
    tensors: list[Tensor]


def _of(value: Any, seen: _Seen) -> Hashable:
    kind = type(value)
    if isinstance(value, _PLAIN):
        return (kind, repr(value)) if kind is float else (kind, value)
    if isinstance(value, Tensor):
        seen.tensors.append(value)
        place = (value.data_ptr(), value.dtype, value.device)
        return (*place, tuple(value.shape), value.stride(), value.requires_grad)
    if isinstance(value, (nn.Module, dict, list, tuple, set)):
        if id(value) in seen.numbers:  # its contents are in the print already
            return (kind, seen.numbers[id(value)])
        seen.numbers[id(value)] = len(seen.numbers)
    if isinstance(value, nn.Module):
        return (kind, id(kind.forward), _of(vars(value), seen))
    if isinstance(value, dict):
        held = [(key, entry) for key, entry in value.items() if _full(entry)]
        return tuple((_of(key, seen), _of(entry, seen)) for key, entry in held)
    if isinstance(value, (list, tuple)):
        return (kind, *(_of(entry, seen) for entry in value))
    if isinstance(value, set):
        return frozenset(_of(entry, seen) for entry in value)
    if kind is MethodType:
        return (id(value.__func__), id(value.__self__))
    return (kind, id(value), _numbers(value))


def _numbers(value: Any) -> Hashable:
    """The plain fields of an object that a module holds, such as one of settings."""
    fields = getattr(value, "__dict__", None)
    if not isinstance(fields, dict) or isinstance(value, type):
        return ()
    plain = [(name, entry) for name, entry in fields.items() if isinstance(entry, _PLAIN)]
    return tuple((name, type(entry), repr(entry)) for name, entry in plain)


def _full(entry: Any) -> bool:
    """Not one of the many empty containers of a module."""
    return not (isinstance(entry, (dict, set)) and not entry)
