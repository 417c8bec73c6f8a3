"""Observations that keep their structure: of which parts they are, for policies that are no MLP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._base.rows import map_rows, parts_of
from .errors import EnvError


@dataclass(frozen=True)
class Part:
    """One array of an observation: its shape, and the type that it is kept in."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    choices: tuple[tuple[int, int], ...] = ()  # of choices: the least and the largest of each entry

    @property
    def size(self) -> int | None:
        """The numbers of a vector of floats, which can be normalised; None for anything else."""
        return self.shape[0] if self.dtype == np.float32 and len(self.shape) == 1 else None

    @property
    def kind(self) -> torch.dtype:
        """The type of tensors of it."""
        return torch.from_numpy(np.zeros(0, self.dtype)).dtype

    def example(self, space: Any, rows: int, generator: torch.Generator) -> Tensor:
        """Rows [rows, *shape] such as nets may see, of every value that the space has."""
        shape = (rows, *self.shape)
        if self.dtype == np.float32:
            return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)
        low, high = map(torch.as_tensor, self.bounds() if self.choices else _bounds(space, self))
        drawn = torch.rand(shape, generator=generator, device="cpu", dtype=torch.float64)
        return (low + (drawn * (high - low + 1)).floor()).clamp(low, high).to(self.kind)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The least and the largest choice of every entry, of this part's shape."""
        low, high = np.array(self.choices, np.int64).T
        return low.reshape(self.shape), high.reshape(self.shape)

    def not_a_choice(self, values: np.ndarray) -> tuple[int, str] | None:
        """The first row of values [N, *shape] with one that is none of the choices, and that one
        in words; None if there is none.
        """
        if not self.choices:
            return None
        low, high = self.bounds()
        outside = (values < low) | (values > high)
        if not outside.any():
            return None
        at = tuple(np.argwhere(outside)[0])
        least, most = low[at[1:]], high[at[1:]]
        return int(at[0]), f"{values[at]}, which is none of {least} to {most}"


def _bounds(space: Any, part: Part) -> tuple[float, float]:
    """The lowest and the highest integer of every entry of a space."""
    from gymnasium import spaces

    if isinstance(space, spaces.MultiBinary) or part.dtype == np.bool_:
        return 0.0, 1.0
    return float(np.max(space.low)), float(np.min(space.high))


def parts_of_space(space: Any, name: str = "observation_space") -> Any:
    """The parts of a space in its structure: dicts, tuples and ``Part``."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return {key: parts_of_space(one, f"{name}[{key!r}]") for key, one in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(parts_of_space(one, f"{name}[{i}]") for i, one in enumerate(space.spaces))
    if isinstance(space, spaces.Box):
        kind = np.dtype(np.float32) if space.dtype.kind == "f" else np.dtype(space.dtype)
        return Part(tuple(space.shape), kind)
    if isinstance(space, spaces.Discrete):
        return Part((), np.dtype(np.int64), ((int(space.start), int(space.start + space.n - 1)),))
    if isinstance(space, spaces.MultiDiscrete):
        pairs = zip(space.start.reshape(-1).tolist(), space.nvec.reshape(-1).tolist(), strict=True)
        choices = tuple((start, start + n - 1) for start, n in pairs)
        return Part(tuple(space.shape), np.dtype(np.int64), choices)
    if isinstance(space, spaces.MultiBinary):
        return Part(tuple(space.shape), np.dtype(np.int8))
    wanted = "Box, Discrete, MultiBinary, MultiDiscrete, or Dict and Tuple of them"
    raise ValueError(f"{name}: expected {wanted}, got {space}")


def spaces_in(space: Any) -> list[Any]:
    """The spaces of the parts, in the order of the parts."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict | spaces.Tuple):
        inner = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return [one for part in inner for one in spaces_in(part)]
    return [space]


def arranged(parts: Any, obs: Any, rows: int | None, label: str) -> Any:
    """An observation, or those of ``rows`` copies, as arrays of its parts; what has others is an
    ``EnvError``.
    """
    lead = () if rows is None else (rows,)

    def array(name: str, part: Part, value: Any) -> np.ndarray:
        found = np.asarray(value, part.dtype)
        if found.shape != (*lead, *part.shape):
            wanted = list((*lead, *part.shape))
            raise EnvError(
                f"{label} returned {name} of shape {list(found.shape)}, expected {wanted}"
            )
        return found

    names = iter([name for name, _ in parts_of(parts)])
    try:
        return map_rows(lambda part, value: array(next(names), part, value), parts, obs)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        wanted = "observations of the observation space's structure"
        raise EnvError(f"{label} returned {type(obs).__name__}, expected {wanted}") from error


def unusable(parts: Any, obs: Any) -> tuple[int, str] | None:
    """The first row, and what is wrong in it in words, with a number that is not finite or none of
    the choices; None if there is none.
    """
    for (name, values), (_, part) in zip(parts_of(obs), parts_of(parts), strict=True):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return int(np.argwhere(~np.isfinite(values))[0][0]), f"{name} not finite"
        if wrong := part.not_a_choice(values):
            return wrong[0], f"{name} {wrong[1]},"
    return None
