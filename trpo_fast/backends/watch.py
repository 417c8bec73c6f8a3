"""One run of some work, operator by operator: why it could not be recorded and replayed, what it
reads from outside, and whether another run takes the same operators.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_DYNAMIC = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
# What waits for a device and has no such tag: these look whether they have failed.
_LOOKS = (
    "_linalg_check_errors",
    "_linalg_eigh",
    "_linalg_eigvals",
    "_linalg_svd",
    "linalg_eig",
    "linalg_eigvals",
    "linalg_lstsq",
)
_TORCH = os.path.dirname(torch.__file__)


class Call(NamedTuple):
    """An operator and a hash of what it was called on: shapes, types, numbers, and where tensors
    that the run did not make lie.
    """

    name: str
    arguments: int


def tensors(value: Any) -> Iterable[Tensor]:
    """Every tensor in the arguments or results of an operator."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from tensors(one)
    elif isinstance(value, dict):
        yield from tensors(tuple(value.values()))


def waits(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether the host needs the operator's answer before it can go on."""
    name = func.overloadpacket.__name__
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    if _fills(func, args):
        return False
    if name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"):
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    checks = "check_errors" in kwargs and kwargs["check_errors"]
    return checks or name in _LOOKS or any(tag in func.tags for tag in _DYNAMIC)


def _fills(func: Any, args: Sequence[Any]) -> bool:
    """Whether ``x[mask] = number`` is meant, which torch does by masked_fill: it takes the number
    from the host, and asks a device nothing.
    """
    if func.overloadpacket.__name__ not in ("index_put", "index_put_") or len(args) < 3:
        return False
    x, indices, value = args[:3]
    masks = [i for i in indices if i is not None]
    one = value.numel() == 1 and value.device.type == "cpu" and x.device.type != "cpu"
    return one and not any(args[3:]) and all(i.dtype == torch.bool for i in masks)


def draws(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether the operator takes random numbers: attention and recurrent layers do for dropout."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    schema = func._schema.arguments
    named = {argument.name: argument.default_value for argument in schema}
    named |= {argument.name: value for argument, value in zip(schema, args, strict=False)}
    named |= kwargs
    return bool(named.get("dropout_p", named.get("dropout", True)))


class Watch(TorchDispatchMode):
    """Follows a run. ``inputs`` are tensors that the next run will find elsewhere, ``written`` are
    those that it is to write, ``generators`` those that it may draw from.
    """

    def __init__(
        self,
        device: torch.device,
        inputs: Sequence[Tensor],
        written: Sequence[Tensor],
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        super().__init__()
        self.refusal = ""  # why the run cannot be recorded
        self.calls: list[Call] = []
        self.outside: dict[int, Tensor] = {}  # what it reads and neither was given nor made
        self._device, self._generators = device, generators
        self._inputs = {address(t) for t in inputs}
        self._written = {address(t) for t in written}
        self._made: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = (self._key(args), self._key(tuple(sorted(kwargs.items()))))
        self.calls.append(Call(str(func), hash(given)))
        reason = self.refusal or self._before(func, args, kwargs)
        out = func(*args, **kwargs)
        if not self.refusal:
            self.refusal = reason or self._after(func, args, kwargs, out)
        for made in map(address, tensors(out)):
            if not (made in self._inputs or made in self._written or made in self.outside):
                self._made.add(made)
        return out

    def _key(self, value: Any) -> Any:
        """What stands for an argument in the comparison of two runs."""
        if isinstance(value, Tensor):
            return (tuple(value.shape), value.dtype, str(value.device), self._origin(value))
        if isinstance(value, (tuple, list)):
            return tuple(map(self._key, value))
        if isinstance(value, torch.Generator):
            return _handle(value)
        if isinstance(value, torch.device):
            return str(value)
        return repr(value)

    def _origin(self, value: Tensor) -> Any:
        place = address(value)
        if place in self._inputs:
            return "input"
        if not place or place in self._made:
            return "made"
        if place not in self._written:
            self.outside.setdefault(place, value)
        return place

    def _before(self, func: Any, args: Any, kwargs: dict[str, Any]) -> str:
        if waits(func, args, kwargs):
            return f"the host waits for {_where(func)}"
        if draws(func, args, kwargs) and not self._may_draw(args, kwargs):
            return f"random numbers are drawn by {_where(func)}"
        for written in _writes(func, args, kwargs):
            if address(written) in self.outside or address(written) in self._inputs:
                return f"what lies outside of it is written by {_where(func)}"
        return ""

    def _may_draw(self, args: Any, kwargs: dict[str, Any]) -> bool:
        given = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Generator)]
        known = [_handle(generator) for generator in self._generators]
        return bool(given) and all(_handle(generator) in known for generator in given)

    def _after(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> str:
        found = [*tensors(args), *tensors(kwargs), *tensors(out)]
        if func.overloadpacket.__name__ == "lift_fresh" and found[0].device == self._device:
            return f"a tensor of the host's numbers is made by {_where(func)}"
        if _fills(func, args):
            return ""
        places = {t.device for t in found if not t.is_meta}  # forward derivatives ask for shapes
        if len(places) > 1:
            return f"tensors of the host and of the device meet in {_where(func)}"
        return ""

    def difference(self, calls: Sequence[Call]) -> str:
        """How this run departs from another one; empty if it took the same operators."""
        for mine, other in zip(self.calls, calls, strict=False):
            if mine.name != other.name:
                return f"{mine.name} in place of {other.name}"
            if mine != other:
                return f"{mine.name} of other numbers or tensors"
        if len(self.calls) != len(calls):
            return f"{len(self.calls)} of them in place of {len(calls)}"
        return ""


def _handle(generator: torch.Generator) -> Any:
    """What torch's own object is known by: several in Python may stand for one."""
    return generator._cdata  # type: ignore[attr-defined]


def address(value: Tensor) -> int:
    """Where the memory of a tensor begins, that of a sparse one's values; 0 for one without, as
    forward derivatives have them.
    """
    try:
        if value.layout is not torch.strided:
            coo = value.layout is torch.sparse_coo
            value = value.detach()._values() if coo else value.detach().values()
        return value.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # a layout that has several
        return 0


def _writes(func: Any, args: Any, kwargs: dict[str, Any]) -> Iterable[Tensor]:
    """The tensors among an operator's arguments that it writes."""
    if not func._schema.is_mutable:
        return
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            yield from tensors(given)


def _where(func: Any) -> str:
    """The operator, and the line outside of torch that asked for it."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename == __file__ or frame.f_code.co_filename.startswith(_TORCH)
    ):
        frame = frame.f_back
    return f"{func.overloadpacket.__name__} ({frame.f_code.co_filename}:{frame.f_lineno})"
