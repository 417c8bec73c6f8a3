"""What a backend answers: whether it serves a problem, and the operator that computes it."""

from __future__ import annotations

import abc

from ..core.operator import Operator
from ..core.problem import Problem
from .support import SERVES, Support


class Backend(abc.ABC):
    """One way to compute. ``name`` is what the user passes."""

    name: str
    precisions: tuple[str, ...] = ("fp32",)

    def machine_support(self) -> Support:
        """Whether it runs on this machine."""
        return SERVES

    def precision_support(self, precision: str) -> Support:
        """Whether it computes in this precision on this machine."""
        if precision not in self.precisions:
            return Support(f"precision={precision!r} is not among its {self.precisions}")
        return SERVES

    def records(self, problem: Problem) -> bool:
        """Whether updates of this problem may be recorded (captured.py)."""
        return False

    @abc.abstractmethod
    def problem_support(self, problem: Problem) -> Support:
        """Whether it takes the problem, wherever it would run."""

    def support(self, problem: Problem) -> Support:
        """Whether it computes the problem here."""
        return (
            self.precision_support(problem.precision)
            and self.machine_support()
            and self.problem_support(problem)
        )

    @abc.abstractmethod
    def operator(self, problem: Problem) -> Operator: ...
