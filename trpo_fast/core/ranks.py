"""The problem of an update whose rows lie on several processes: each checks its own, then all agree
on what the whole is.

Rows are numbered rank by rank, as if those of rank 0 came first in one batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._base.arguments import fail
from .._base.ranks import Ranks, digest, digest_of
from .._base.rows import map_rows
from .batch import Batch
from .checks import check_fvp_rows
from .problem import Problem, Share

# Fields of a batch that say what an update is; others may be there on some ranks only.
_ALIKE = ("log_probs", "old_params")


def padded(batch: Batch, theta: Tensor, ranks: Ranks | None) -> Batch:
    """A batch, or of several ranks in the place of none as few rows as can be, of weight zero."""
    if ranks is None or not isinstance(batch, Batch) or len(batch):
        return batch
    rows = batch.unit

    def filled(part: Any) -> Any:
        return part.new_zeros(rows, *part.shape[1:]) if isinstance(part, Tensor) else part

    fields = {name: map_rows(filled, value) for name, value in vars(batch).items()}
    if batch.action_mask is not None:
        fields["action_mask"] = torch.ones_like(fields["action_mask"])
    if batch.state is not None:
        fields["state"] = batch.state.new_zeros(1, *batch.state.shape[1:])
    return replace(batch, **fields | {"weights": theta.new_zeros(rows)})


def whole_problem(
    ranks: Ranks | None,
    make: Callable[[int | Tensor | None], tuple[Problem, int]],
    fvp_rows: int | Tensor | None,
    sync: bool,
    settings: Any,
) -> Problem:
    """The problem that ``make`` returns of ``fvp_rows``, with its number of rows (those of
    ``padded`` are none). Of several ranks every one makes its own and adds what it has of the whole
    to it; ``settings`` have to be the same on all.
    """
    if ranks is None:
        return make(fvp_rows)[0]

    def tell(made: tuple[Problem, int]) -> tuple[float, ...]:
        problem, rows = made
        ranks.check_place(problem.theta)
        options = digest_of((settings, _definition(problem, fvp_rows)))
        weight = _weight(problem.batch) if rows else 0.0
        machine = digest_of(_machine(problem.theta.device))
        return digest(problem.theta), options, machine, rows, weight

    (problem, rows), table = ranks.together(lambda: make(None), tell)
    alike = "the same parameters on every rank (send rank 0's to the others once, at the start)"
    ranks.check_same("policy", alike, [row[0] for row in table])
    same = "the same options on every rank, in the same call"
    ranks.check_same("options", same, [row[1] for row in table])
    machine = "the same processor or GPU, torch and number of threads on every rank"
    ranks.check_same("group", machine, [row[2] for row in table])
    counts, weights = [int(row[3]) for row in table], [row[4] for row in table]
    if not sum(counts):
        raise fail("batch", "at least one row on one of the ranks", "none")
    mine, first = ranks.rank, sum(counts[: ranks.rank])
    chosen, own, total = None, weights[mine], sum(weights)
    fisher = (sum(counts), first, total, own)
    if fvp_rows is not None:
        chosen, found = ranks.together(
            lambda: _chosen(problem, fvp_rows, rows, first, sum(counts), sync),
            lambda index: (index.numel(), _weight(problem.batch, index)),
        )
        chosen_counts, chosen_weights = [int(row[0]) for row in found], [row[1] for row in found]
        if not sum(chosen_counts):
            raise fail("fvp_rows", "at least one row index on one of the ranks", "none")
        before = sum(chosen_counts[:mine])
        fisher = (sum(chosen_counts), before, sum(chosen_weights), chosen_weights[mine])
    share = Share(ranks, sum(counts), rows, first, total, own, *fisher)
    return replace(problem, fvp_rows=chosen, share=share)


def _definition(problem: Problem, fvp_rows: int | Tensor | None) -> dict[str, Any]:
    """What has to be the same on all ranks for them to take the same way through an update."""
    batch = problem.batch
    names = ("damping", "kl_scale", "reverse_kl", "fisher", "constraint", "precision")
    return {
        "fvp_rows": fvp_rows,
        "group_size": batch.group_size,
        "sequence_length": batch.sequence_length,
        **{name: getattr(batch, name) is None for name in _ALIKE},
        **{name: getattr(problem, name) for name in names},
    }


def _machine(device: torch.device) -> tuple[Any, ...]:
    """Decides the bits of what every rank computes alike from the sums: inner products."""
    if device.type == "cuda":
        return torch.__version__, torch.cuda.get_device_name(device)
    capability = torch.backends.cpu.get_cpu_capability()
    return torch.__version__, device.type, capability, torch.get_num_threads()


def _weight(batch: Batch, index: Tensor | None = None) -> float:
    """The weight of a batch's rows, or of some; of what is no weight none: bad_values says so."""
    if batch.weights is None:
        return float(len(batch) if index is None else index.numel())
    weights = batch.weights
    if index is not None:
        weights = weights[index.clamp(0, len(weights) - 1)]
    return float(torch.where(weights > 0, weights, 0.0).double().sum())


def _chosen(
    problem: Problem, fvp_rows: int | Tensor, rows: int, first: int, every: int, sync: bool
) -> Tensor:
    """This rank's rows of products: those given, or its share of so many of all ranks' rows."""
    length, theta = problem.batch.sequence_length, problem.theta
    if isinstance(fvp_rows, Tensor):
        if fvp_rows.numel() == 0:
            return theta.new_zeros(0, dtype=torch.int64)
        look = sync or theta.device.type == "cpu"
        index = check_fvp_rows(fvp_rows, theta, rows, check_values=look, sequence_length=length)
        assert index is not None
        return index
    index = check_fvp_rows(fvp_rows, theta, every, sequence_length=length)
    assert index is not None
    return index[(index >= first) & (index < first + rows)] - first
