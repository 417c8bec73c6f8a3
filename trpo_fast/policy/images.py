"""Images among observations: which arrays are some, and how they lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._base.arguments import fail

MAX_MATRIX_SIZE = 4096  # numbers in an array that is still taken for a matrix


def is_image(part: Any) -> bool:
    """Whether a Box is an image rather than numbers."""
    size, rank = math.prod(part.shape), len(part.shape)
    return (rank >= 3 and part.dtype == np.uint8) or (rank >= 2 and size > MAX_MATRIX_SIZE)


@dataclass(frozen=True)
class Image:
    """How the images of a Box lie: [H, W], [C, H, W] or [H, W, C], or frames of these stacked. The
    channels are first unless the last dimension is the smaller one.
    """

    shape: tuple[int, ...]
    low: float
    high: float

    @classmethod
    def of_space(cls, space: Any) -> Image:
        if not 2 <= len(space.shape) <= 4:
            raise fail("observation_space", "images of 2 to 4 dimensions", list(space.shape))
        low, high = float(np.min(space.low)), float(np.max(space.high))
        bounded = math.isfinite(low) and math.isfinite(high) and high > low
        return cls(tuple(space.shape), *((low, high) if bounded else (0.0, 1.0)))

    @property
    def channels_last(self) -> bool:
        """Whether the last dimension is that of the channels."""
        return len(self.shape) > 2 and self.shape[-1] < self.shape[-3]

    @property
    def planes(self) -> tuple[int, int, int]:
        """[C, H, W], frames being channels."""
        *frames, a, b, c = (1, *self.shape) if len(self.shape) == 2 else self.shape
        channels, height, width = (c, a, b) if self.channels_last else (a, b, c)
        return math.prod(frames) * channels, height, width

    def scaled(self, obs: Tensor, kind: torch.dtype) -> Tensor:
        """Images [N, *shape] as planes [N, C, H, W] of numbers from 0 to 1."""
        if self.channels_last:
            obs = obs.movedim(-1, -3)
        planes = obs.reshape(obs.shape[0], *self.planes).to(kind)
        if self.low:
            planes = planes - self.low
        return planes / (self.high - self.low)
