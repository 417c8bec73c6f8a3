"""What a backend answers: whether it serves a problem, and the operator that computes it."""

from __future__ import annotations

import abc

from ..core.problem import Operator, Problem


class Backend(abc.ABC):
    """One way to compute. ``name`` is what the user passes."""

    name: str
    precisions: tuple[str, ...] = ("fp32",)

    def unavailable(self) -> str | None:
        """Why this backend cannot run on this machine, as a sentence; None if it can."""
        return None

    def refuses_precision(self, precision: str) -> str | None:
        """Why this backend cannot compute so on this machine, as a sentence; None if it can."""
        if precision not in self.precisions:
            return f"precision={precision!r} is not among its {self.precisions}"
        return None

    @abc.abstractmethod
    def refuses(self, problem: Problem) -> str | None:
        """Why this backend cannot serve the problem, as a sentence; None if it can."""

    @abc.abstractmethod
    def operator(self, problem: Problem) -> Operator: ...
