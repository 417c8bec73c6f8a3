"""The suites of a solve to a given gain, each contender with the fewest products that reach it.

cg_to_95       a step that is .95 of the best one
cg_to_plain10  a step as good as plain CG's after ten products

Ours run plain CG, and CG with K-FAC's factors under the name BACKEND+kfac; the opponents run plain
CG. On random rows ten products are all but the best step, so these are for recorded batches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..updates.operator import FisherOperator
from . import opponents
from .cases import CASES, Case, Workload, make_workload
from .gain import best, gain
from .suite import Suite, Timed, as_timed, plain_and_preconditioned, solver_of
from .update_suites import make_setup, own_operator

MOST = 256  # products
GOALS: dict[str, float | None] = {"cg_to_95": 0.95, "cg_to_plain10": None}


class _Judge:
    """A recorded batch in float64: what steps are worth, and what solves give."""

    def __init__(self, case: str, rows: int) -> None:
        self.work = make_workload(CASES[case], cap=rows).double()
        self.most = best(self.operator().__matmul__, self.work.g)

    def operator(self) -> FisherOperator:
        work = self.work
        return FisherOperator(work.policy, work.obs, damping=work.damping, backend="reference")

    def solve(self, products: int, preconditioner: Any) -> Tensor:
        return self.operator().solve(self.work.g, products, preconditioner=preconditioner).x

    def gain(self, x: Tensor) -> float:
        return gain(self.operator().__matmul__, self.work.g, x.to(self.work.g), self.most)

    @functools.cache  # noqa: B019 (lives as long as the judge)
    def fewest(self, goal: float, preconditioner: Any) -> int:
        """Products to the goal; the gain grows with every one."""
        high = 1
        while self.gain(self.solve(high, preconditioner)) < goal:
            high *= 2
            if high > MOST:
                raise ArithmeticError(f"gain: expected {goal:.3f} within {MOST} products")
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            reached = self.gain(self.solve(middle, preconditioner)) >= goal
            low, high = (low, middle) if reached else (middle, high)
        return high

    def products(self, goal: float | None, preconditioner: Any) -> int:
        """As ``fewest``; no goal is the gain of plain CG after ten products."""
        if goal is None:
            if preconditioner is None:
                return 10
            goal = self.gain(self.solve(10, None))
        return self.fewest(goal, preconditioner)


@functools.cache
def _judge(case: str, rows: int) -> _Judge:
    return _Judge(case, rows)


def _own(goal: float | None, work: Workload, name: str, precision: Any, iterations: int) -> Timed:
    contender, preconditioner = solver_of(name)
    judge = _judge(work.case.name, work.rows)
    products = judge.products(goal, preconditioner)

    def call() -> Tensor:
        operator = own_operator(work, contender, precision)
        return operator.solve(work.g, products, preconditioner=preconditioner).x

    def exact(_: Tensor) -> Tensor:
        return judge.solve(products, preconditioner)

    timed = as_timed(contender, call)
    return Timed(timed, timed, exact=exact, products=products)


def _opponent(
    goal: float | None, name: str, work: Workload, precision: str, iterations: int
) -> Timed:
    opponent = opponents.OPPONENTS[name](make_setup(work), precision)
    judge = _judge(work.case.name, work.rows)
    products = judge.products(goal, None)
    return Timed(
        lambda: opponent.timed(work.g, products),
        lambda: opponent.solve(work.g, products),
        exact=lambda _: judge.solve(products, None),
        products=products,
    )


def _gain(work: Workload) -> Callable[[Tensor], float]:
    return _judge(work.case.name, work.rows).gain


TO_GAIN = [
    Suite(
        name,
        functools.partial(_own, goal),
        opponents.OPPONENTS,
        functools.partial(_opponent, goal),
        Case.solve_flops,
        contenders=plain_and_preconditioned,
        gain=_gain,
        recorded_only=True,
    )
    for name, goal in GOALS.items()
]
