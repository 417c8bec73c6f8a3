"""Checks of batches whose rows are sequences in time, for policies with a memory."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor, nn

from .._base.arguments import check_count, check_tensor, fail
from ..policy.net import MLPPolicy
from ..policy.recurrent import RecurrentPolicy
from .batch import Batch


class SequenceFields(TypedDict):
    """The fields of a ``Batch`` that sequences have."""

    sequence_length: int | None
    starts: Tensor | None
    state: Tensor | None


def check_sequences(policy: nn.Module, theta: Tensor, batch: Batch) -> SequenceFields:
    """How the rows of a batch follow each other in time: what was given, zeros in place of what was
    not.
    """
    length, rows = batch.sequence_length, len(batch)
    if length is None:
        if isinstance(policy, RecurrentPolicy):
            wanted = "how many consecutive rows are one sequence, for a policy with a memory"
            raise fail("sequence_length", wanted, "None")
        for name in ("starts", "state"):
            if getattr(batch, name) is not None:
                raise fail("sequence_length", f"a number beside {name}", "None")
        return {"sequence_length": None, "starts": None, "state": None}
    if isinstance(policy, MLPPolicy):
        raise fail("sequence_length", "None for an MLPPolicy, which has no memory", length)
    check_count("sequence_length", length)
    if rows % length:
        raise fail("sequence_length", f"a divisor of the {rows} rows", length)
    if batch.group_size is not None:
        raise fail("group_size", "None for rows that are sequences", batch.group_size)
    starts, state, sequences = batch.starts, batch.state, rows // length
    if starts is None:
        starts = torch.zeros(rows, dtype=torch.bool, device=theta.device)
    starts = check_tensor("starts", starts, theta, (rows,), dtypes=(torch.bool,))
    width = policy.state_size if isinstance(policy, RecurrentPolicy) else None
    if state is None:
        if width is None:
            wanted = f"the states of {sequences} sequences before their first rows"
            raise fail("state", wanted, "None")
        state = theta.new_zeros(sequences, width)
    state = check_tensor("state", state, theta, (sequences, width))
    return {"sequence_length": length, "starts": starts, "state": state}


def whole_sequences(fvp_rows: int | Tensor, length: int, rows: int) -> int | Tensor:
    """The same choice among sequences: so many that they have at least ``fvp_rows`` rows, or those
    whose rows' indices were given [M].
    """
    if not isinstance(fvp_rows, Tensor):
        return min(-(-fvp_rows // length), rows // length)
    first = fvp_rows[::length]
    each = first.unsqueeze(-1) + torch.arange(length, device=first.device)
    if fvp_rows.numel() % length or not torch.equal(each.flatten(), fvp_rows):
        raise fail("fvp_rows", f"whole sequences of {length} rows", "parts of some")
    if bool((first % length).any()):
        raise fail("fvp_rows", f"sequences that begin at multiples of {length}", "others")
    return first // length


def rows_of(sequences: Tensor, length: int) -> Tensor:
    """Indices [M length] of the rows of sequences [M]."""
    steps = torch.arange(length, device=sequences.device)
    return (sequences.unsqueeze(-1) * length + steps).flatten()
