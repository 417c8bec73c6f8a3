"""Random cases, each from its own number: the few that every run of the suite tries, and
TRPO_FAST_CAMPAIGN times as many for a long run.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from cases import HEADS, Case, poison
from torch import Tensor

from trpo_fast import Batch, MLPPolicy, distribution_params
from trpo_fast.policy.net import ACTIVATIONS

TIMES = max(1, int(os.environ.get("TRPO_FAST_CAMPAIGN", "1")))
WIDTHS = (1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 32, 33, 64, 65)
SIZES = (1, 2, 3, 4, 5, 7, 11, 12, 13, 24, 33, 60, 96, 129, 200)


def numbers(count: int) -> range:
    """Of the cases to try, where so many are enough for every day."""
    return range(count * TIMES)


def numbered(count: int) -> pytest.MarkDecorator:
    """A test of so many cases, one a number, which is part of the test's name."""
    return pytest.mark.parametrize("number", numbers(count))


@dataclass(frozen=True)
class Drawn:
    """A policy and rows in float32, rows in any layout, and options that go with them."""

    case: Case
    policy: MLPPolicy
    batch: Batch
    options: dict[str, Any]  # of a problem: what products, gradients and updates have in common


def drawn(
    number: int,
    *,
    rows: int = 200,
    width: int = 65,
    heads: Iterable[str] = HEADS,
    sampled: bool = False,
) -> Drawn:
    """The case with this number; at most so many rows and so wide. ``sampled``: by a policy that is
    some way off, whose distribution parameters the batch has.
    """
    draw = random.Random(number)
    head = draw.choice(list(heads))
    count = draw.choice([n for n in SIZES if n <= rows])
    widths = [n for n in WIDTHS if n <= width]
    case = Case(
        head,
        tuple(draw.choices(widths, k=draw.randint(0, 4))),
        draw.choice(list(ACTIVATIONS)),
        count,
        obs_dim=draw.choice(widths),
        seed=number,
        weights=count > 1 and draw.random() < 0.5,
        masks="categorical" in head and draw.random() < 0.5,
        dtype=torch.float32,
        group_size=draw.choice([None, None, *divisors(count)]),
    )
    policy = case.policy()
    batch = case.batch(policy)
    options: dict[str, Any] = {
        "kl_reduction": draw.choice(["sum", "mean"]),
        "kl_direction": draw.choice(["forward", "reverse"]),
        "chunk_rows": draw.choice([None, None, 1, 7, 50]),
        "fvp_rows": draw.choice([None, None, math.ceil(count / 2)]),
    }
    if sampled:
        params = distribution_params(policy, batch.obs, batch.action_mask)
        noise = torch.randn(params.shape, generator=torch.Generator().manual_seed(number))
        batch = replace(batch, old_params=params + 0.2 * noise)
    if case.weights:
        options["fvp_rows"] = None  # else all of its rows may be without weight
        batch = poison(batch)
    names = ("obs", "actions", "advantages", "log_probs", "weights", "action_mask", "old_params")
    given = {name: getattr(batch, name) for name in names}
    laid = {name: laid_out(draw, x) for name, x in given.items() if x is not None}
    return Drawn(case, policy, replace(batch, **laid), options)


def divisors(count: int) -> list[int]:
    return [n for n in range(1, count + 1) if count % n == 0]


def laid_out(draw: random.Random, x: Tensor) -> Tensor:
    """The same numbers in memory of another form, gaps filled with what would be noticed."""
    form = draw.choice(["plain", "rows", "columns", "transposed", "shifted", "negated"])
    hostile = torch.full_like(x, float("nan")) if x.is_floating_point() else torch.ones_like(x)
    if form == "rows":
        return torch.stack([x, hostile], 1)[:, 0]
    if form == "columns":
        return torch.stack([hostile, x], -1)[..., 1]
    if form == "transposed":
        return x.T.contiguous().T if x.ndim == 2 else x
    if form == "shifted":  # no address that a vector's load would like
        return torch.cat([hostile.flatten()[:1], x.flatten()])[1:].view(x.shape)
    if form == "negated" and x.dtype.is_floating_point:
        return torch._neg_view(-x)
    return x
