"""The head for a gymnasium action space."""

from __future__ import annotations

import math
from typing import Any

from .._base.arguments import (
    fail,
)
from .heads import Bernoulli, Categorical, Gaussian, Head, MultiCategorical, SquashedGaussian


def head_for_space(action_space: Any, *, std: str = "free", squash: bool = False) -> Head:
    """The head for a gymnasium action space: Box, Discrete, MultiDiscrete or MultiBinary."""
    from gymnasium import spaces

    if isinstance(action_space, spaces.Box):
        dim = math.prod(action_space.shape)
        return SquashedGaussian(dim, std) if squash else Gaussian(dim, std)
    if isinstance(action_space, spaces.Discrete):
        return Categorical(int(action_space.n))
    if isinstance(action_space, spaces.MultiDiscrete):
        return MultiCategorical([int(n) for n in action_space.nvec.reshape(-1)])
    if isinstance(action_space, spaces.MultiBinary):
        return Bernoulli(math.prod(action_space.shape))
    wanted = "gymnasium's Box, Discrete, MultiDiscrete or MultiBinary"
    kind = type(action_space)
    raise fail("action_space", wanted, f"{kind.__module__}.{kind.__name__}")
