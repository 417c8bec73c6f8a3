"""``NetSpec``: all that a kernel must know of a policy, as numbers and names."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


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
    def size(self) -> int:
        """P, the number of parameters."""
        free = self.widths[-1] if self.head == "gaussian" else 0
        return sum((i + 1) * o for i, o in pairwise(self.widths)) + free
