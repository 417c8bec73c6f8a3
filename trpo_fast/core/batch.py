"""``Batch``: rows of experience [N], and the weights that every mean over them uses."""

from __future__ import annotations

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

    For a policy with a memory the rows are sequences, one after the other: of ``sequence_length``
    rows each, in time; starts [N] bool where an episode begins, so that the state is zeroed before
    the row; state [N / sequence_length, K] before the first row of each sequence, where gradients
    end. Rows of weight zero do not count, but their observations pass through the state.
    """

    obs: Tensor  # [N, O], or what a custom module takes with N rows first
    actions: Tensor | None = None  # [N, A]; [N] for Categorical, [N, factors] for MultiCategorical
    advantages: Tensor | None = None  # [N]
    log_probs: Tensor | None = None  # [N] of the actions under the policy that took them
    weights: Tensor | None = None  # [N] >= 0; None: all ones
    action_mask: Tensor | None = None  # [N, Z] bool, True = allowed
    group_size: int | None = None  # K: consecutive rows that share one denominator
    old_params: Tensor | None = None  # [N, D] the rows were sampled with; None: those of the call
    sequence_length: int | None = None  # T: consecutive rows that are one sequence in time
    starts: Tensor | None = None  # [N] bool: where the state is zeroed before the row
    state: Tensor | None = None  # [N / T, K] before the first row of each sequence

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
        """The batch restricted to some rows, or whole sequences: a slice, or indices [M]."""
        tensors: dict[str, Any] = {
            f.name: value[self._sequences(index) if f.name == "state" else index]
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **tensors)

    def _sequences(self, index: slice | Tensor) -> slice | Tensor:
        """Which sequences rows are of that are whole sequences."""
        length = self.sequence_length
        assert length is not None
        if isinstance(index, slice):
            return slice(index.start // length, -(-index.stop // length))
        return index[::length] // length

    @property
    def unit(self) -> int:
        """How many consecutive rows belong together."""
        return self.group_size or self.sequence_length or 1

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

    def finite_obs(self, keep: Tensor | None = None) -> Tensor:
        """The observations, zeros in place of what is not finite, but for rows to ``keep`` [N]."""
        if not self.obs.is_floating_point():
            return self.obs
        good = self.obs.isfinite().reshape(len(self), -1).all(-1)
        good = good if keep is None else good | keep
        return torch.where(good.view(-1, *[1] * (self.obs.ndim - 1)), self.obs, 0.0).to(
            self.obs.dtype
        )

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
            name: fill(getattr(self, name), 0) for name in ("advantages", "log_probs", "weights")
        }
        # What the rows of a sequence see, later rows remember.
        filled["obs"] = fill(self.obs, 0) if self.sequence_length is None else self.finite_obs(keep)
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
