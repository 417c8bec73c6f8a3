"""A module run with other tensors in the place of its own, while the module itself stays as it is.

torch.func.functional_call swaps tensors into the user's module and back, so Ctrl-C, or another
thread that acts meanwhile, can find them there. Here the structure is copied instead: every module
and every container that leads to one is new, all tensors but the substituted are shared, and the
copy is thrown away after its one call. What ``forward`` or a hook writes on ``self`` goes with it.
"""

from __future__ import annotations

from collections import OrderedDict
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from .._base.arguments import fail


class Substitution:
    """Copies of modules that hold ``tensors[id(t)]`` where the originals hold t."""

    def __init__(self, tensors: dict[int, Tensor]) -> None:
        self.tensors = tensors
        self._copies: dict[int, Any] = {}

    def module(self, original: Any) -> Any:
        """The copy of a module; of each there is one, however many paths lead to it."""
        known = self._copies.get(id(original))
        if known is not None:
            return known
        if isinstance(original, torch.jit.ScriptModule):
            raise fail("policy", "modules in Python", f"the compiled {type(original).__name__}")
        copy = object.__new__(type(original))
        self._copies[id(original)] = copy
        fields = copy.__dict__
        for name, value in original.__dict__.items():
            fields[name] = self._value(value)
        fields.pop("_compiled_call_impl", None)  # module.compile() made it for the original
        return copy

    def _value(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.tensors.get(id(value), value)
        if isinstance(value, nn.Module):
            return self.module(value)
        kind = type(value)
        if kind is MethodType and isinstance(value.__self__, nn.Module):
            return MethodType(value.__func__, self.module(value.__self__))
        if kind is dict or kind is OrderedDict or kind is list:
            return self._container(value, kind)
        if kind is tuple:
            return tuple(map(self._value, value))
        return value

    def _container(self, value: Any, kind: type) -> Any:
        known = self._copies.get(id(value))
        if known is None:
            known = self._copies[id(value)] = kind()
            if kind is list:
                known.extend(map(self._value, value))
            else:
                known.update({key: self._value(entry) for key, entry in value.items()})
        return known
