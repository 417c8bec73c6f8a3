"""What the processes of ``rank_pool.py`` run: updates and operators on their part of some rows, and
the same in one process, where the group is None.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tests.support.cases import UPDATES, Case, random_vector
from tests.support.module_cases import setup
from tests.support.recurrent_cases import recurrent_policy, sequences
from trpo_fast import Batch, FisherOperator, flat_params

Ends = tuple[int, ...]  # of each rank's rows
Subject = Case | str
Options = dict[str, Any]


def rank_of(group: Any) -> int:
    return torch.distributed.get_rank(group)


def part_of(group: Any, batch: Batch, ends: Ends) -> Batch:
    """The rows of a rank: from the end of the one before to its own."""
    if group is None:
        return batch
    rank = rank_of(group)
    return batch.rows(slice(ends[rank - 1] if rank else 0, ends[rank]))


def part_of_indices(group: Any, indices: Tensor, ends: Ends) -> Tensor:
    """Of the indices of rows those that are a rank's, as it counts them."""
    if group is None:
        return indices
    rank = rank_of(group)
    begin = ends[rank - 1] if rank else 0
    return indices[(indices >= begin) & (indices < ends[rank])] - begin


def made(subject: Subject) -> tuple[nn.Module, Batch]:
    """A policy and its rows: a case, a cell of three sequences of twenty rows, or a module of one's
    own with this distribution on 21 rows.
    """
    if isinstance(subject, Case):
        return (policy := subject.policy()), subject.batch(policy)
    if subject in ("gru", "lstm"):
        return (policy := recurrent_policy("gaussian", subject)), sequences(policy)
    module, obs = setup(subject)
    torch.manual_seed(1)
    actions, weights = module(obs).sample(), torch.rand(len(obs)).double()
    return module, Batch(obs, actions, torch.randn(len(obs)).double(), weights=weights)


def with_sampler(policy: nn.Module, batch: Batch) -> Batch:
    """Rows that a policy a little away has sampled."""
    with torch.no_grad():
        params = policy.distribution_params(batch.obs, batch.action_mask)
    return replace(batch, old_params=params + 0.01)


def updated(
    group: Any, jobs: Sequence[tuple[Subject, Ends, str, Options]]
) -> list[tuple[Tensor, dict[str, Any]]]:
    """Parameters and report of updates."""
    found = []
    for subject, ends, update, options in jobs:
        policy, batch = made(subject)
        options = dict(options)
        if options.pop("old_params", False):
            batch = with_sampler(policy, batch)
        if (indices := options.pop("indices", None)) is not None:
            options["fvp_rows"] = part_of_indices(group, torch.tensor(indices), ends)
        batch = part_of(group, batch, ends)
        if options.pop("weights of one", False) and group is not None and rank_of(group) == 1:
            batch = replace(batch, weights=torch.ones_like(batch.advantages))
        info = UPDATES[update](policy, batch, group=group, **options)
        found.append((flat_params(policy).clone(), info.as_dict()))
    return found


def solved(
    group: Any, subject: Subject, ends: Ends, options: Options, solve: Options
) -> dict[str, Tensor]:
    """Products and a solution of an operator."""
    policy, batch = made(subject)
    batch = part_of(group, batch, ends)
    given = {"weights": batch.weights, "action_mask": batch.action_mask, "actions": batch.actions}
    F = FisherOperator(policy, batch.obs, group=group, **given, **options)
    v, columns = random_vector(policy), random_vector(policy, columns=3)
    found = F.solve(v, **solve)
    numbers = torch.stack([found.quad, found.residual_norm, found.linear_gain])
    rows = torch.tensor([found.factor_rows, int(found.iterations)])
    products = {"F v": F @ v, "F V": F @ columns, "F": F.dense()}
    return {**products, "x": found.x, "numbers": numbers, "rows": rows}


def emulated(group: Any, jobs: Sequence[tuple[Subject, Ends, str, Options]]) -> Any:
    """Updates by the CUDA kernels on the host."""
    os.environ["TRPO_FAST_EMULATE"] = "1"
    try:
        return updated(group, jobs)
    finally:
        del os.environ["TRPO_FAST_EMULATE"]
