"""``NetSpec``: all that a kernel must know of a policy, as numbers and names."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from .heads import free_of


@dataclass(frozen=True)
class NetSpec:
    """What a kernel must know about a policy: the shape of the net and the kind of its head."""

    widths: tuple[int, ...]  # O, H1, ..., Z
    activation: str
    head: str
    nvec: tuple[int, ...] = ()

    @property
    def maps(self) -> int:
        """L, the number of linear maps."""
        return len(self.widths) - 1

    @property
    def free(self) -> int:
        """A for a head with a log_std of its own, which follows the net's parameters; else 0."""
        return free_of(self.head, self.widths[-1])

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        return sum((i + 1) * o for i, o in pairwise(self.widths)) + self.free
