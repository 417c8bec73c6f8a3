"""The suites: what one call is, what it must return, and how many flops of it are useful.

fvp      F v with the forward already done
cg       (F + damping I) x = g from (parameters, obs, g) to x, forward and packing included
update   trpo_update from a batch to the new parameters, in sb3-contrib's KL conventions so that
         everyone computes the same step
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..fisher import FisherOperator
from ..policy import flat_params, write_params
from ..update import trpo_update
from .cases import Case, Workload

MAX_KL = 0.01


@dataclass
class Timed:
    """A call to time, and the tensor it computes."""

    call: Callable[[], Any]
    result: Callable[[], Tensor]
    reset: Callable[[], None] | None = None


@dataclass(frozen=True)
class Suite:
    """How to make our own contender and an opponent's from a workload."""

    name: str
    own: Callable[[Workload, str, str, int], Timed]
    opponents: Callable[[ModuleType], dict[str, Any]]
    opponent: Callable[[ModuleType, str, Workload, str, int], Timed]
    flops: Callable[[Case, int, int], int]

    def exact(self, workload: Workload, iterations: int) -> Tensor:
        """The result in float64, by the reference."""
        return self.own(workload.double(), "reference", "fp32", iterations).result()


def relative_error(result: Tensor, exact: Tensor) -> float:
    error = (result.detach().double().to(exact.device) - exact).norm() / exact.norm()
    return float(error) if math.isfinite(float(error)) else math.inf


def _setup(package: ModuleType, work: Workload) -> Any:
    return package.Setup(work.params(), work.obs, work.case.head, work.damping)


def _own_fvp(work: Workload, backend: str, precision: str, iterations: int) -> Timed:
    operator = FisherOperator(
        work.policy,
        work.obs,
        damping=work.damping,
        backend=backend,
        precision=precision,
        sync=False,
    )
    call = lambda: operator @ work.g  # noqa: E731
    return Timed(call, call)


def _opponent_fvp(
    package: ModuleType, name: str, work: Workload, precision: str, iterations: int
) -> Timed:
    product = package.OPPONENTS[name](_setup(package, work), precision).product()
    return Timed(lambda: product(work.g), lambda: product(work.g))


def _own_cg(work: Workload, backend: str, precision: str, iterations: int) -> Timed:
    def call() -> Tensor:
        operator = FisherOperator(
            work.policy,
            work.obs,
            damping=work.damping,
            backend=backend,
            precision=precision,
            sync=False,
        )
        return operator.solve(work.g, iterations=iterations).x

    return Timed(call, call)


def _opponent_cg(
    package: ModuleType, name: str, work: Workload, precision: str, iterations: int
) -> Timed:
    opponent = package.OPPONENTS[name](_setup(package, work), precision)
    return Timed(
        lambda: opponent.timed(work.g, iterations), lambda: opponent.solve(work.g, iterations)
    )


def _own_update(work: Workload, backend: str, precision: str, iterations: int) -> Timed:
    theta, start = flat_params(work.policy), work.theta

    def reset() -> None:
        write_params(work.policy, theta, start)

    def call() -> None:
        trpo_update(
            work.policy,
            work.batch,
            max_kl=MAX_KL,
            damping=work.damping,
            cg_iterations=iterations,
            backend=backend,
            precision=precision,
            kl_reduction="mean",
            kl_direction="reverse",
        )

    def result() -> Tensor:
        reset()
        call()
        moved = theta - start
        reset()
        return moved

    return Timed(call, result, reset)


def _opponent_update(
    package: ModuleType, name: str, work: Workload, precision: str, iterations: int
) -> Timed:
    batch = work.batch
    setup = package.UpdateSetup(
        _setup(package, work),
        batch.actions,
        batch.advantages,
        batch.log_probs,
        MAX_KL,
        iterations,
    )
    opponent = package.UPDATE_OPPONENTS[name](setup, precision)

    def result() -> Tensor:
        opponent.reset()
        opponent.update()
        return torch.as_tensor(opponent.theta() - work.theta)

    return Timed(opponent.update, result, opponent.reset)


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "fvp",
            _own_fvp,
            lambda package: package.OPPONENTS,
            _opponent_fvp,
            lambda case, rows, iterations: case.fvp_flops(rows),
        ),
        Suite(
            "cg",
            _own_cg,
            lambda package: package.OPPONENTS,
            _opponent_cg,
            Case.solve_flops,
        ),
        Suite(
            "update",
            _own_update,
            lambda package: package.UPDATE_OPPONENTS,
            _opponent_update,
            Case.update_flops,
        ),
    )
}
