"""Rows of observations: a tensor or array, or dicts and tuples of them, each with N rows first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from torch import Tensor

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
    """The parts by names for files: obs, obs.camera, obs.0."""
    return {".".join(re.findall(r"\w+", found)): part for found, part in parts_of(rows, name)}


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
