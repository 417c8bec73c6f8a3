"""Policies that have a shape and no values, as the registered operators describe them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from .._base.choices import Activation
from ..core import checks
from ..policy.heads import head_of_kind
from ..policy.net import ACTIVATIONS, MLPPolicy


class _Shape(MLPPolicy):
    """A net that arguments describe in full, whatever torch does at modules."""

    def departure(self) -> str:
        return ""


@functools.lru_cache(maxsize=64)
def _shape_only(
    widths: tuple[int, ...], activation: Activation, head: str, nvec: tuple[int, ...]
) -> MLPPolicy:
    """A policy that has the shape and no values: what backends ask a problem's policy for."""
    if len(widths) < 2 or min(widths) < 1:
        raise checks.fail("widths", "at least an input and an output width", list(widths))
    checks.check_choice("activation", activation, ACTIVATIONS)
    with torch.random.fork_rng(devices=[]):  # initial weights that are never read
        return _Shape(
            widths[0], head_of_kind(head, widths[-1], nvec), widths[1:-1], activation, device="meta"
        )


def policy_of(
    theta: Tensor, widths: Sequence[int], activation: str, head: str, nvec: Sequence[int]
) -> MLPPolicy:
    """The policy whose flat parameters theta [P] are, checked, by the fields of its ``NetSpec``."""
    named = cast(Activation, activation)  # which _shape_only checks
    policy = _shape_only(tuple(widths), named, head, tuple(nvec))
    if theta.dtype not in (torch.float32, torch.float64):
        raise checks.fail("theta", "float32 or float64 parameters", theta.dtype)
    checks.check_tensor("theta", theta, theta, (policy.spec.size,))
    return policy
