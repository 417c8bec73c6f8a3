"""The table of what no update can use of a batch: an argument, what it has to be, and where it is
not.

Weights are judged in every row, everything else in rows of positive weight: the others may hold
anything. ``csrc/shared/bad_values.h`` holds the same rules for the kernels, which flag a row; the
sentence that names the argument comes from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .._base.arguments import fail
from .._base.rows import parts_of
from ..policy.cnn import CNNPolicy
from ..policy.heads import Head
from .batch import Batch


@dataclass(frozen=True)
class Judged:
    """A batch as the rules see it."""

    head: Head
    raw: Batch  # as given
    clean: Batch  # its rows of weight zero filled with harmless values
    fvp_rows: Tensor | None  # [M] indices
    totals: tuple[float, float] | None = None  # weight of all ranks' rows, and of products'
    counted: bool = True  # whether any row has a weight; where totals are known none need have one
    policy: nn.Module | None = None  # whose observations may have parts that are choices

    def fvp_weights(self) -> Tensor | None:
        """Weights [M] of the rows of the Fisher-vector products, where those are a choice."""
        if self.raw.weights is None or self.fvp_rows is None:
            return None
        return self.raw.weights[self.fvp_rows.clamp(0, len(self.raw) - 1)]


class Rule(NamedTuple):
    """``broken`` is true at the entries of the argument that are not as expected."""

    argument: str
    expected: str
    broken: Tensor
    value: Tensor | None  # of the argument, for the sentence's end
    got: str = ""


def _weights(rows: Judged) -> Iterator[Rule]:
    weights = rows.raw.weights
    if weights is None:
        return
    unusable = ~((weights >= 0) & torch.isfinite(weights))
    yield Rule("weights", "finite values of at least 0", unusable, weights)
    total = torch.where(weights > 0, weights, 0).sum()
    if rows.totals is not None:
        total = torch.full_like(total, rows.totals[0])
    yield Rule("weights", "a positive total", ~((total > 0) & torch.isfinite(total)), total)
    if (chosen := rows.fvp_weights()) is not None:
        none = ~(chosen > 0).any()
        if rows.totals is not None:
            none = torch.full_like(none, rows.totals[1] <= 0.0)
        yield Rule("fvp_rows", "at least one row with a positive weight", none, None, "none")


def _indices(rows: Judged) -> Iterator[Rule]:
    chosen, last = rows.fvp_rows, len(rows.raw) - 1
    if chosen is None:
        return
    yield Rule("fvp_rows", f"indices from 0 to {last}", (chosen < 0) | (chosen > last), chosen)
    yield Rule("fvp_rows", "strictly increasing indices", chosen.diff() <= 0, chosen[1:])


def _numbers(rows: Judged) -> Iterator[Rule]:
    numbers = ("obs", "advantages", "log_probs", "old_params", "state")
    for name, value in rows.clean.tensors():
        if name.partition("[")[0] in numbers and value.is_floating_point():
            yield Rule(name, "finite values", ~torch.isfinite(value), value)


def _choices(rows: Judged) -> Iterator[Rule]:
    if not isinstance(rows.policy, CNNPolicy):
        return
    parts, weights = dict(parts_of(rows.clean.obs)), rows.raw.weights
    for name, choices in rows.policy.net.extractor.choices():
        value = parts[name].reshape(len(rows.raw), -1)
        broken = choices.outside(value)
        if weights is not None:
            broken = broken & (weights > 0).unsqueeze(-1)
        yield Rule(name, choices.words(), broken, value)


def _actions(rows: Judged) -> Iterator[Rule]:
    head, mask, actions = rows.head, rows.clean.action_mask, rows.clean.actions
    if mask is not None and head.nvec:
        words = "at least one allowed action in every row"
        yield Rule("action_mask", words, head.without_choice(mask), None, "none")
    if actions is None:
        return
    yield Rule("actions", head.expected_actions, head.unusable(actions), actions)
    if mask is not None and head.nvec:
        words, got = "choices that action_mask allows", "a forbidden one"
        yield Rule("actions", words, head.forbidden(actions, mask), None, got)


TABLE: tuple[Callable[[Judged], Iterator[Rule]], ...] = (
    _indices,
    _weights,
    _numbers,
    _choices,
    _actions,
)


def _rules(rows: Judged) -> Iterator[Rule]:
    for rules in TABLE if rows.counted else (_indices, _weights):
        yield from rules(rows)


def found(rows: Judged) -> Tensor:
    """0-d bool: some rule is broken. Nothing waits for a device."""
    broken = [rule.broken.any() for rule in _rules(rows)]
    if not broken:
        return torch.zeros((), dtype=torch.bool, device=rows.raw.device)
    return torch.stack(broken).any()


def raise_for(rows: Judged) -> None:
    """The sentence of the first broken rule as a ``ValueError``; silent if there is none."""
    for rule in _rules(rows):
        if bool(rule.broken.any()):
            raise fail(rule.argument, rule.expected, _got(rule))


def _got(rule: Rule) -> str:
    where = [] if rule.broken.ndim == 0 else [int(i) for i in rule.broken.nonzero()[0]]
    got = rule.got if rule.value is None else f"{rule.value[tuple(where)].item():g}"
    return f"{got} at index {where}" if where else got
