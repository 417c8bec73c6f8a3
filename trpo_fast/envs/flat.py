"""What may become one row of numbers: policies and critics are MLPs, which images are not for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

MAX_MATRIX_SIZE = 4096  # numbers in an array that is still taken for a matrix


def refuse_images(space: Any) -> None:
    """Raise for an observation space that is an image, or has one among its parts."""
    for part in _boxes(space):
        size, rank = math.prod(part.shape), len(part.shape)
        if (rank >= 3 and part.dtype == np.uint8) or (rank >= 2 and size > MAX_MATRIX_SIZE):
            raise ValueError(
                f"observation_space: expected numbers for an MLP, got an image of shape "
                f"{list(part.shape)} and type {part.dtype}, for which there is no policy; if an "
                f"MLP with {size} inputs is meant, give the environment flat: "
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
