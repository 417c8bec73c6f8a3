"""What functions of a caller's hold: the tensors that another call may have others for, all else
that decides what they do, and the same functions of other tensors.

A function is followed through its closure, its defaults, its attributes and the globals that its
code names, into tuples, lists, dicts, dataclasses, distributions and further functions. Tensors
found there are inputs; parameters, what lies in a module's parameters, and tensors with a graph of
their own are read where they lie. Of Python modules and classes, what the code of any function
names is followed, too; tensors there are none of the inputs, and what reads them is not replayed.
Anything else that has contents, such as the object of a bound method, is not followed, and what
holds it is not replayed.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import functools
from collections import OrderedDict, namedtuple
from collections.abc import Hashable, Mapping
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
    WrapperDescriptorType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from ..backends.fingerprint import fingerprint
from ..backends.watch import address
from .code_names import in_libraries, names_of, open_to_callers, under

_PLAIN = (
    bool, int, float, complex, str, bytes, type(None), type(Ellipsis), slice, range, np.generic,
    torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, enum.Enum, Constraint,
)  # fmt: skip
_STATELESS = (
    type, ModuleType, MethodDescriptorType, WrapperDescriptorType, MemberDescriptorType,
    GetSetDescriptorType, type(vars(namedtuple("_Named", "entry"))["entry"]), np.ufunc,
    torch._ops.OpOverload, torch._ops.OpOverloadPacket,
)  # fmt: skip
_MISSING = object()


def _from_library(function: FunctionType) -> bool:
    """Whether a function is one that holds nothing of the caller's."""
    return in_libraries(function.__module__) and not function.__closure__


def _is_plain(value: Any) -> bool:
    """Whether all there is to a value is in its words: a number with attributes is more."""
    if not isinstance(value, _PLAIN):
        return False
    return isinstance(value, (enum.Enum, Constraint)) or not getattr(value, "__dict__", None)


def _is_tuple(value: Any) -> bool:
    """A tuple, or a named one."""
    return type(value) is tuple or (isinstance(value, tuple) and hasattr(value, "_fields"))


def _fields(value: Any) -> dict[str, Any] | None:
    """The fields of an object that is nothing but its fields."""
    known = isinstance(value, (Distribution, SimpleNamespace, argparse.Namespace))
    if not known and (isinstance(value, type) or not dataclasses.is_dataclass(value)):
        return None
    found: dict[str, Any] | None = getattr(value, "__dict__", None)
    return found


class Held:
    """What ``value`` (functions, tensors, and whatever holds these) is made of, for work on the
    parameters ``flat``. ``key`` is equal for two whose tensors alone differ.
    """

    def __init__(self, value: Any, flat: Tensor) -> None:
        self.inputs: dict[str, Tensor] = {}  # what another call has others for
        self.places: set[int] = {address(flat)}  # of memory that is read where it lies
        self.refusal = ""  # why what was made of it must not be replayed
        self._value, self._device, self._flat = value, flat.device, address(flat)
        self._names: dict[int, str] = {}  # of the inputs, by id
        self._seen: dict[int, tuple[int, Any]] = {}  # number and object, by id
        self._named: set[str] = set()  # attributes, in the code of every function
        self._holders: dict[tuple[int, bool], Any] = {}  # modules and classes, by id, if called
        self._copied = True  # whether copies lead to what is followed now
        try:
            self.key: Hashable = (self._key(value), *self._under_names())
        except RecursionError:
            self.key, self.refusal = None, "its functions hold what is nested too deeply to follow"

    def of(self, inputs: Mapping[str, Tensor]) -> Any:
        """``value`` with other tensors in the place of ``inputs``."""
        tensors = {i: inputs[name] for i, name in self._names.items()}
        return _Copies(tensors).of(self._value)

    def unknown(self, outside: Mapping[int, Tensor]) -> str:
        """Why what reads these tensors, by address, must not be replayed: the next run may find
        others, and a replay would not.
        """
        strange = [t for place, t in outside.items() if place not in self.places]
        if not strange:
            return ""
        shape = list(strange[0].shape)
        return f"a tensor {shape} is read that neither the arguments nor the closures hold"

    def _under_names(self) -> list[Hashable]:
        """What modules and classes have under the names that code has for attributes, which may
        lead to more of each.
        """
        found: list[Hashable] = []
        asked: set[tuple[Hashable, str]] = set()
        self._copied, before = False, -1
        while before != len(asked):
            before = len(asked)
            for place, holder in list(self._holders.items()):
                for name, entry in under(holder, place[1], frozenset(self._named)):
                    if (place, name) not in asked:
                        asked.add((place, name))
                        found.append((name, self._key(entry)))
        return found

    def _hold(self, value: Any, *, called: bool) -> None:
        if open_to_callers(value):
            self._holders.setdefault((id(value), called), value)

    def _key(self, value: Any) -> Hashable:
        kind = type(value)
        if _is_plain(value):
            return (kind, repr(value))
        if id(value) in self._seen:
            return ("again", self._seen[id(value)][0])
        self._seen[id(value)] = (len(self._seen), value)
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, nn.Module):
            tensors: list[Tensor] = []
            found = fingerprint(value, tensors)
            self.places.update(map(address, tensors))
            self._hold(kind, called=False)
            return found
        if kind in (dict, OrderedDict):
            return (kind, *((self._key(k), self._key(v)) for k, v in value.items()))
        if kind is list or _is_tuple(value):
            self._hold(kind, called=False)
            return (kind, *map(self._key, value))
        if isinstance(value, (FunctionType, MethodType, functools.partial)):
            return self._callable(value)
        if (fields := _fields(value)) is not None:
            self._hold(kind, called=False)
            return (kind, self._key(dict(fields)))
        return self._other(value)

    def _tensor(self, value: Tensor) -> Hashable:
        if value.device != self._device:  # an operator that met it would be refused
            return (value.device, value.dtype, value.shape)
        place = address(value)
        if value.requires_grad or isinstance(value, nn.Parameter) or place == self._flat:
            self.places.add(place)
            where = (value.data_ptr(), value.dtype, value.shape, value.stride())
            return (*where, value.requires_grad)
        strided = value.layout is torch.strided
        if not strided or getattr(value, "__dict__", None):
            said = "a tensor with attributes" if strided else "a sparse tensor"
            self.refusal = self.refusal or f"its functions hold {said}"
            return said
        if not self._copied:  # whoever reads it is noticed
            return (type(value), value.dtype, value.shape)
        name = self._names[id(value)] = f"held {len(self._names)}"
        self.inputs[name] = value
        return (name, type(value), value.stride())

    def _callable(self, value: Any) -> Hashable:
        if isinstance(value, MethodType):
            return ("method", self._key(value.__func__), self._key(value.__self__))
        if isinstance(value, functools.partial):
            parts = (value.func, value.args, value.keywords)
            return ("partial", *map(self._key, parts))
        if _from_library(value):
            return id(value)
        code = names_of(value.__code__)
        if code.imports:
            what = ", ".join(sorted(code.imports))
            self.refusal = self.refusal or f"its functions import {what} when they run"
        self._named |= code.attributes
        names = [name for name in code.globals if name in value.__globals__]
        return (
            value.__code__,
            *(self._key(_contents(cell)) for cell in value.__closure__ or ()),
            self._key(value.__defaults__),
            self._key(value.__kwdefaults__),
            self._key(value.__dict__),
            *((name, self._key(value.__globals__[name])) for name in names),
        )

    def _other(self, value: Any) -> Hashable:
        """What has no contents of its own; anything else is a reason not to replay."""
        builtin = isinstance(value, BuiltinFunctionType)
        whose = value.__self__ if builtin else value
        known = builtin and isinstance(whose, (ModuleType, type(None), type))
        self._hold(whose, called=True)
        if not (known or isinstance(value, _STATELESS) or value is _MISSING):
            kind = type(value).__name__
            self.refusal = self.refusal or f"its functions hold a {kind}, which is not looked into"
        return (type(value), id(value))


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing was assigned yet
        return _MISSING


class _Copies:
    """Copies of all that leads to one of ``tensors``, by id, which holds those instead."""

    def __init__(self, tensors: dict[int, Tensor]) -> None:
        self._tensors = tensors
        self._made: dict[int, Any] = {}
        self._cells: dict[int, CellType] = {}  # of functions that share some

    def of(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._tensors.get(id(value), value)
        if id(value) in self._made:
            return self._made[id(value)]
        if isinstance(value, FunctionType) and not _from_library(value):
            return self._function(value)
        if isinstance(value, functools.partial):
            return functools.partial(
                self.of(value.func), *self.of(value.args), **self.of(value.keywords)
            )
        if isinstance(value, MethodType):
            return MethodType(self.of(value.__func__), self.of(value.__self__))
        if type(value) in (dict, OrderedDict):
            made = self._made[id(value)] = type(value)()
            made.update({key: self.of(entry) for key, entry in value.items()})
            return made
        if type(value) is list:
            made = self._made[id(value)] = []
            made.extend(map(self.of, value))
            return made
        if _is_tuple(value):
            entries = [self.of(entry) for entry in value]
            named = hasattr(value, "_fields")
            return type(value)(*entries) if named else type(value)(entries)
        if not isinstance(value, nn.Module) and (fields := _fields(value)) is not None:
            made = self._made[id(value)] = object.__new__(type(value))
            made.__dict__.update({name: self.of(entry) for name, entry in fields.items()})
            return made
        return value

    def _function(self, value: FunctionType) -> Any:
        given = value.__closure__ or ()
        new = [cell for cell in given if id(cell) not in self._cells]
        self._cells.update({id(cell): CellType() for cell in new})
        cells = tuple(self._cells[id(cell)] for cell in given)
        names = dict(value.__globals__)
        made = FunctionType(value.__code__, names, value.__name__, None, cells or None)
        self._made[id(value)] = made
        made.__defaults__ = self.of(value.__defaults__)
        made.__kwdefaults__ = self.of(value.__kwdefaults__)
        made.__dict__.update(self.of(value.__dict__))
        for cell in new:
            if (contents := _contents(cell)) is not _MISSING:
                self._cells[id(cell)].cell_contents = self.of(contents)
        for name in names_of(value.__code__).globals:
            if name in names:
                names[name] = self.of(names[name])
        return made
