"""Rows of observations: a tensor or array, or dicts and tuples of them, each with N rows first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from torch import Tensor

from .arguments import fail

# Dicts and tuples hold rows in turn. On the host the parts may be arrays.
Rows: TypeAlias = Tensor | dict[str, Any] | tuple[Any, ...]


def one_tensor(rows: Rows) -> Tensor:
    """The rows [N, ...] of a policy of layers, which are one tensor."""
    assert isinstance(rows, Tensor)
    return rows


def map_rows(function: Callable[..., Any], rows: Any, *more: Any) -> Any:
    """Rows of the same structure with ``function`` of every part and of those of ``more``."""
    if isinstance(rows, dict):
        return {
            key: map_rows(function, part, *(other[key] for other in more))
            for key, part in rows.items()
        }
    if isinstance(rows, tuple):
        return tuple(map_rows(function, *parts) for parts in zip(rows, *more, strict=True))
    return function(rows, *more)


def parts_of(rows: Any, name: str = "obs") -> Iterator[tuple[str, Any]]:
    """Every part with what it is called: obs, obs['camera'], obs[0]."""
    if isinstance(rows, dict | tuple):
        pairs = rows.items() if isinstance(rows, dict) else enumerate(rows)
        for key, part in pairs:
            yield from parts_of(part, f"{name}[{key!r}]")
    else:
        yield name, rows


def dotted_parts(rows: Any, name: str) -> dict[str, Any]:
    """The parts by names for files: obs, obs.camera, obs.0. What is no letter, digit or underscore
    in a key becomes its number, obs.a%2Eb for the key "a.b", so that obs.a.b is one of two keys.
    """
    if not isinstance(rows, dict | tuple):
        return {name: rows}
    named: dict[str, Any] = {}
    for key, part in rows.items() if isinstance(rows, dict) else enumerate(rows):
        word = re.sub(r"\W", lambda found: f"%{ord(found[0]):02X}", str(key))
        for called, found in dotted_parts(part, f"{name}.{word}").items():
            if called in named:
                raise fail(name, "parts that have different names in a file", f"two {called!r}")
            named[called] = found
    return named


def with_parts(rows: Any, parts: Iterator[Any]) -> Any:
    """Rows of the same structure with other parts, in the order of ``parts_of``."""
    if isinstance(rows, dict):
        return {key: with_parts(part, parts) for key, part in rows.items()}
    if isinstance(rows, tuple):
        return tuple(with_parts(part, parts) for part in rows)
    return next(parts)


def count_rows(rows: Any) -> int:
    """N, of the first part."""
    return len(next(parts_of(rows))[1])
