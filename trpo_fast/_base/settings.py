"""What a setting is: its name, type, range, default and description, all read from one line of a
dataclass.

>>> @dataclass
... class Solver:
...     damping: Annotated[float, AtLeast(0.0), Doc("added to the diagonal")] = 0.1
>>> declared(Solver)["damping"].check(-1)
ValueError: damping: expected a finite number of at least 0, got -1

``Config``, the checks of the update functions and the flags of the command line read the same line.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from typing_extensions import Doc

from .arguments import (
    check_bool,
    check_choice,
    check_count,
    check_counts,
    check_number,
    check_text,
    check_words,
    fail,
)


@dataclass(frozen=True)
class Limit:
    """A bound of a number."""

    bound: float


class AtLeast(Limit):
    """The number is this or more."""


class AtMost(Limit):
    """The number is this or less."""


class Above(Limit):
    """The number is more than this."""


class Below(Limit):
    """The number is less than this."""


@dataclass(frozen=True)
class OfPolicies:
    """Policies of these kinds alone use the setting."""

    kinds: tuple[str, ...]


@dataclass(frozen=True)
class OrInfinite:
    """The number may be infinity too."""

    bound: bool = True


CHECKS: dict[Any, Callable[..., Any]] = {
    bool: check_bool,
    int: check_count,
    float: check_number,
    str: check_text,
    tuple: check_counts,
    tuple[str, ...]: check_words,
}
_BOUNDS = {
    AtLeast: "least",
    AtMost: "most",
    Above: "above",
    Below: "below",
    OrInfinite: "or_inf",
}


@dataclass(frozen=True)
class Setting:
    """One field of a dataclass of settings."""

    name: str
    kind: Any  # bool, int, float, str, tuple (integers from 1 to MAX_INT) or tuple[str, ...]
    optional: bool  # whether it may be None
    choices: tuple[str, ...]  # of a string; () where any will do
    bounds: dict[str, Any]  # by the arguments of check_number and check_count
    default: Any
    help: str
    policies: tuple[str, ...] = ()  # the kinds that use it; () where every one does

    def check(self, value: Any, argument: str | None = None) -> Any:
        """The value as plain Python, or a ``ValueError`` that begins with the argument's name."""
        argument = argument or self.name
        if value is None:
            if self.optional:
                return None
            raise fail(argument, "a value", "None")
        if self.choices:
            return check_choice(argument, value, self.choices)
        check = CHECKS.get(self.kind)
        return check(argument, value, **self.bounds) if check else value


@functools.cache
def declared(owner: type) -> dict[str, Setting]:
    """The settings of a dataclass by name."""
    hints = get_type_hints(owner, include_extras=True)
    return {field.name: _read(field, hints[field.name]) for field in dataclasses.fields(owner)}


def check_all(values: Any) -> None:
    """Check every field of a dataclass of settings; fields become plain Python values."""
    owner: type = type(values)
    for setting in declared(owner).values():
        setattr(values, setting.name, setting.check(getattr(values, setting.name)))


def _read(field: dataclasses.Field[Any], hint: Any) -> Setting:
    notes: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        notes = tuple(rest)
    optional = get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint)
    if optional:
        (hint,) = (kind for kind in get_args(hint) if kind is not NoneType)
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    bounds = {_BOUNDS[type(note)]: note.bound for note in notes if type(note) in _BOUNDS}
    texts = [note.documentation for note in notes if isinstance(note, Doc)]
    kind = str if choices else hint if hint in CHECKS else get_origin(hint) or hint
    policies = tuple(name for note in notes if isinstance(note, OfPolicies) for name in note.kinds)
    text = " ".join(texts)
    return Setting(field.name, kind, optional, choices, bounds, field.default, text, policies)
