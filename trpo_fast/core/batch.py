"""``Batch``: rows of experience [N], and the weights that every mean over them uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from .._base.arguments import describe
from .._base.rows import Rows, count_rows, map_rows, parts_of


@dataclass(frozen=True)
class Batch:
    """Rows of experience: obs [N, O] (of a custom module what it takes, tensors or dicts and tuples
    of them, rows first), actions [N, A] ([N] for Categorical, [N, factors] for
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

    obs: Rows  # [N, O], or what a custom module takes with N rows first
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
        return count_rows(self.obs)

    def __repr__(self) -> str:
        """Types and shapes of what is there, no values."""

        def shown(value: Any) -> str:
            if isinstance(value, Tensor):
                return describe(value)
            if isinstance(value, dict):
                return f"{{{', '.join(f'{key}: {shown(part)}' for key, part in value.items())}}}"
            if isinstance(value, tuple):
                return f"({', '.join(map(shown, value))})"
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
        return replace(self, **tensors | {"obs": map_rows(lambda part: part[index], self.obs)})

    def _sequences(self, index: slice | Tensor) -> slice | Tensor:
        """Which sequences rows are of that are whole sequences."""
        length = self.sequence_length
        assert length is not None
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return slice(start // length, -(-stop // length))
        return index[::length] // length

    @property
    def unit(self) -> int:
        """How many consecutive rows belong together."""
        return self.group_size or self.sequence_length or 1

    def chunks(self, rows: int | None) -> Iterator[Batch]:
        """Pieces of about so many rows that never cut a group or a sequence; the batch itself
        without a number.
        """
        if rows is None:
            yield self
            return
        size = -(-rows // self.unit) * self.unit
        for start in range(0, len(self), size):
            yield self.rows(slice(start, start + size))

    def tracked(self) -> Batch:
        """The batch with copies of what was made under ``torch.inference_mode()``: torch does not
        count the writes to such tensors, nor let gradients pass through them.
        """
        if not any(value.is_inference() for _, value in self.tensors()):
            return self

        def copied(value: Any) -> Any:
            fresh = isinstance(value, Tensor) and value.is_inference()
            return value.clone() if fresh else value

        with torch.inference_mode(False):
            fields = {name: map_rows(copied, value) for name, value in vars(self).items()}
            return replace(self, **fields)

    @property
    def device(self) -> torch.device:
        """Where the observations are."""
        found: torch.device = next(parts_of(self.obs))[1].device
        return found

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor [N, ...] of the batch with its name."""
        for name, value in vars(self).items():
            yield from (pair for pair in parts_of(value, name) if isinstance(pair[1], Tensor))

    def finite_obs(self, keep: Tensor | None = None) -> Rows:
        """The observations [N, O], zeros in place of rows that are not finite, except those to
        ``keep`` [N].
        """

        def filled(part: Tensor) -> Tensor:
            if not part.is_floating_point():
                return part
            good = part.isfinite().reshape(len(part), -1).all(-1)
            good = good if keep is None else good | keep
            return torch.where(good.view(-1, *[1] * (part.ndim - 1)), part, 0.0).to(part.dtype)

        return map_rows(filled, self.obs)

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
        if self.sequence_length is None:
            filled["obs"] = map_rows(lambda part: fill(part, 0), self.obs)
        else:  # what the rows of a sequence see, later rows remember
            filled["obs"] = self.finite_obs(keep)
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
        return torch.full((), float(len(batch)), dtype=dtype, device=batch.device)
    return batch.weights.sum()
