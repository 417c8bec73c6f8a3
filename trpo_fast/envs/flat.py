"""What may become one row of numbers, which an MLP takes, and what is left as it is."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

from ..policy.images import is_image


def numbers_in(space: Any) -> int:
    """How many numbers an array of a space holds, one row of them for an MLP."""
    return math.prod(space.shape)


def has_images(space: Any) -> bool:
    """Whether a space is an image, or has one among its parts."""
    return any(map(is_image, _boxes(space)))


def keeps_structure(space: Any, wish: bool | None) -> bool:
    """Whether observations of a space stay as they are: as wished, or without a wish where there
    is an image among them.
    """
    return has_images(space) if wish is None else wish


def refuse_images(space: Any) -> None:
    """Raise for an observation space that is an image, or has one among its parts."""
    for part in _boxes(space):
        if is_image(part):
            size = math.prod(part.shape)
            raise ValueError(
                f"observation_space: expected numbers for layers or a cell, got an image of shape "
                f"{list(part.shape)} and type {part.dtype}, which policy='cnn' is for; if a net "
                f"with {size} inputs is meant, give the environment flat: "
                "gymnasium.wrappers.FlattenObservation(env)"
            )


def check_flat(space: Any) -> None:
    """Refuse images, and say that a matrix loses its shape."""
    refuse_images(space)
    if len(space.shape or ()) > 1:
        warnings.warn(
            f"observations of shape {list(space.shape)} are flattened to "
            f"{math.prod(space.shape)} numbers; gymnasium.wrappers.FlattenObservation does so "
            "without this warning",
            stacklevel=2,
        )


def _boxes(space: Any) -> Iterator[Any]:
    from gymnasium import spaces

    if isinstance(space, spaces.Box):
        yield space
    elif isinstance(space, spaces.Dict | spaces.Tuple):
        for part in space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces:
            yield from _boxes(part)
