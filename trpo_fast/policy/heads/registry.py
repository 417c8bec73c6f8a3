"""The package's own heads, in one list: what a kind, a space or a module's distribution is served
by.
"""

from __future__ import annotations

from typing import Any, get_args

from torch import Tensor
from torch.distributions import Distribution

from ..._base.arguments import check_choice, fail
from ..._base.choices import ActionMode
from .base import Head
from .bernoulli import Bernoulli
from .beta import Beta
from .categorical import Categorical
from .gaussian import Gaussian, SquashedGaussian
from .multicategorical import MultiCategorical
from .register import registered_head

# Their kinds in the order of enum Head in csrc/shared/params.h.
STOCK_HEADS: tuple[type[Head], ...] = (
    Gaussian,
    SquashedGaussian,
    Categorical,
    MultiCategorical,
    Bernoulli,
    Beta,
)
_OF_KIND = {kind: head for head in STOCK_HEADS for kind in head.kinds}
KINDS = tuple(_OF_KIND)


def head_of_kind(kind: str, outputs: int, nvec: tuple[int, ...]) -> Head:
    """The head that the fields of a ``NetSpec`` describe."""
    check_choice("head", kind, KINDS)
    return _OF_KIND[kind].of_kind(kind, outputs, nvec)


def free_of(kind: str, outputs: int) -> int:
    """Parameters (log_std) of a head of this kind, which follow the net's in the flat vector."""
    head = _OF_KIND.get(kind)
    return 0 if head is None else head.free_of(kind, outputs)


def head_for_space(action_space: Any, *, std: str = "free", action_mode: str = "scale") -> Head:
    """The head for a gymnasium action space: Box, Discrete, MultiDiscrete or MultiBinary. What a
    Box gets depends on how actions are mapped to it.
    """
    check_choice("action_mode", action_mode, get_args(ActionMode))
    for kind in STOCK_HEADS:
        if action_mode in kind.action_modes and (head := kind.for_space(action_space, std)):
            return head
    wanted = "gymnasium's Box, Discrete, MultiDiscrete or MultiBinary"
    kind_of_space = type(action_space)
    raise fail("action_space", wanted, f"{kind_of_space.__module__}.{kind_of_space.__name__}")


def head_of_distribution(distribution: Distribution) -> tuple[Head, Tensor] | None:
    """The head whose formulas a distribution obeys, registered ones first, and its distribution
    parameters [N, D]; None for a distribution that has none.
    """
    if not isinstance(distribution, Distribution):
        raise without_head(type(distribution).__name__)
    if found := registered_head(distribution):
        return found
    for kind in STOCK_HEADS:
        if found := kind.of_distribution(distribution):
            return found
    return None


def without_head(got: str) -> ValueError:
    """The error about what a module returns in place of a distribution with a head."""
    names = (name for kind in STOCK_HEADS for name in kind.distributions)
    wanted = f"a module that returns {', '.join(names)} or one of register_head over N rows"
    return fail("policy", wanted, got)
