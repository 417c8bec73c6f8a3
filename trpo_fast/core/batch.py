"""``Batch``: rows of experience [N], and the weights that every mean over them uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from .._base.arguments import describe


@dataclass(frozen=True)
class Batch:
    """Rows of experience: obs [N, O], actions [N, A] ([N] for Categorical, [N, factors] for
    MultiCategorical), advantages [N], log_probs [N] of the actions when they were chosen.

    ``log_probs=None`` stands for those under the policy of the call. weights [N] >= 0: rows of
    weight zero may hold anything, NaN included. action_mask [N, Z] bool, True = allowed.
    group_size: as many consecutive rows share one denominator. old_params [N, D]: the distribution
    parameters that the rows were sampled with, for a KL to the policy that sampled them.
    """

    obs: Tensor  # [N, O], or what a custom module takes with N rows first
    actions: Tensor | None = None  # [N, A]; [N] for Categorical, [N, factors] for MultiCategorical
    advantages: Tensor | None = None  # [N]
    log_probs: Tensor | None = None  # [N] of the actions under the policy that took them
    weights: Tensor | None = None  # [N] >= 0; None: all ones
    action_mask: Tensor | None = None  # [N, Z] bool, True = allowed
    group_size: int | None = None  # K: consecutive rows that share one denominator
    old_params: Tensor | None = None  # [N, D] the rows were sampled with; None: those of the call

    def __len__(self) -> int:
        """N, the number of rows."""
        return self.obs.shape[0]

    def __repr__(self) -> str:
        """Types and shapes of what is there, no values."""

        def shown(value: Any) -> str:
            if isinstance(value, Tensor):
                return describe(value)
            return str(value) if isinstance(value, int) else type(value).__name__

        given = {name: value for name, value in vars(self).items() if value is not None}
        parts = [f"{name}={shown(value)}" for name, value in given.items()]
        return f"Batch({', '.join(parts)})"

    def rows(self, index: slice | Tensor) -> Batch:
        """The batch restricted to some rows: a slice, or indices [M]."""
        tensors: dict[str, Any] = {
            f.name: value[index]
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **tensors)

    def chunks(self, rows: int | None) -> Iterator[Batch]:
        """Pieces of about so many rows that never cut a group; the batch itself without a
        number.
        """
        if rows is None:
            yield self
            return
        group = self.group_size or 1
        size = -(-rows // group) * group
        for start in range(0, len(self), size):
            yield self.rows(slice(start, start + size))

    def tracked(self) -> Batch:
        """The batch with copies of what was made under ``torch.inference_mode()``: torch does not
        count the writes to such tensors, nor let gradients pass through them.
        """
        untracked: dict[str, Any] = {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and value.is_inference()
        }
        if not untracked:
            return self
        with torch.inference_mode(False):
            return replace(self, **{name: value.clone() for name, value in untracked.items()})

    def without_padding(self) -> Batch:
        """Zero-weight rows filled with harmless values, so that 0 * NaN never happens."""
        if self.weights is None:
            return self
        keep = self.weights > 0

        def fill(value: Tensor | None, filler: float | Tensor) -> Tensor | None:
            if value is None:
                return None
            return torch.where(keep.view(-1, *[1] * (value.ndim - 1)), value, filler).to(
                value.dtype
            )

        filled: dict[str, Any] = {
            name: fill(getattr(self, name), 0)
            for name in ("obs", "advantages", "log_probs", "weights")
        }
        first = keep.long().argmax().view(1)
        for name in ("actions", "old_params"):  # what is harmless depends on the head: a used row's
            if (value := getattr(self, name)) is not None:
                filled[name] = fill(value, value.index_select(0, first))
        return replace(self, **filled, action_mask=fill(self.action_mask, True))


def normalised_weights(batch: Batch, total: Tensor) -> Tensor:
    """w_n / W [N]; ``total`` is the W of the whole batch where ``batch`` is a chunk of it."""
    if batch.weights is None:
        return (1.0 / total).expand(len(batch))
    return batch.weights / total


def total_weight(batch: Batch, dtype: torch.dtype) -> Tensor:
    if batch.weights is None:
        return torch.full((), float(len(batch)), dtype=dtype, device=batch.obs.device)
    return batch.weights.sum()
