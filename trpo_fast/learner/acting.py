"""A policy as whoever acts with it asks it: for the head of its actions and for distribution
parameters.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .._base.arguments import fail
from .._base.rows import Rows, one_tensor
from ..policy.distributions import distribution_in, from_validation
from ..policy.heads import Head, head_of_distribution, without_head
from ..policy.net import MLPPolicy
from ..policy.recurrent import RecurrentPolicy
from ..policy.wrappers import unwrapped


def acting_params(policy: nn.Module, obs: Rows, mask: Tensor | None = None) -> tuple[Head, Tensor]:
    """The head and the distribution parameters [N, D] of a policy's actions at rows obs."""
    inner = unwrapped(policy)
    if isinstance(inner, MLPPolicy):
        return inner.head, inner.distribution_params(one_tensor(obs), mask)
    try:
        found: Any = distribution_in(policy(obs) if mask is None else policy(obs, mask))
        known = head_of_distribution(found)
    except ValueError as error:
        if not from_validation(error):
            raise
        raise fail("policy", "a distribution in every row", error) from error
    if known is None:
        raise without_head(repr(found))
    return known


def check_acts(policy: nn.Module) -> None:
    """Refuse a policy whose distribution, which updates follow, is not the one acted by."""
    if isinstance(policy, MLPPolicy | RecurrentPolicy) and (reason := policy.own_forward()):
        wanted = "one that acts by distribution_params (override that instead of forward)"
        raise fail("policy", wanted, f"one where {reason}")
