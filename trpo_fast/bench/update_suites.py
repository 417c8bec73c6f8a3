"""The suites of the policy update: what one call is and how many of its flops are useful.

fvp      F v with the forward already done
cg       (F + damping I) x = g from (parameters, obs, g) to x, forward and packing included
update   trpo_update from a batch to the new parameters, in sb3-contrib's KL conventions so that
         everyone computes the same step
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from .._base.choices import Backend
from ..policy.flat import flat_params, write_params
from ..updates.info import UpdateInfo
from ..updates.natural import trpo_update
from ..updates.operator import FisherOperator
from . import opponents
from .cases import Case, Workload
from .suite import GRAPH, Suite, Timed, as_timed, kernels_of

MAX_KL = 0.01


def make_setup(work: Workload) -> Any:
    return opponents.Setup(work.params(), work.obs, work.case.head, work.damping)


def _own_operator(work: Workload, backend: str, precision: Any) -> FisherOperator:
    return FisherOperator(
        work.policy,
        work.obs,
        damping=work.damping,
        backend=cast(Backend, kernels_of(backend)),
        precision=precision,
        sync=False,
    )


def _own_fvp(work: Workload, backend: str, precision: Any, iterations: int) -> Timed:
    operator = _own_operator(work, backend, precision)
    call = as_timed(backend, lambda: operator @ work.g)
    return Timed(call, call)


def _opponent_fvp(name: str, work: Workload, precision: str, iterations: int) -> Timed:
    product = opponents.OPPONENTS[name](make_setup(work), precision).product()
    return Timed(lambda: product(work.g), lambda: product(work.g))


def _own_cg(work: Workload, backend: str, precision: Any, iterations: int) -> Timed:
    def solve() -> Tensor:
        return _own_operator(work, backend, precision).solve(work.g, iterations=iterations).x

    call = as_timed(backend, solve)
    return Timed(call, call)


def _opponent_cg(name: str, work: Workload, precision: str, iterations: int) -> Timed:
    opponent = opponents.OPPONENTS[name](make_setup(work), precision)
    return Timed(
        lambda: opponent.timed(work.g, iterations), lambda: opponent.solve(work.g, iterations)
    )


def _own_update(work: Workload, backend: str, precision: Any, iterations: int) -> Timed:
    theta, start = flat_params(work.policy), work.theta

    def reset() -> None:
        write_params(work.policy, theta, start)

    def update() -> UpdateInfo:
        return trpo_update(
            work.policy,
            work.batch,
            max_kl=MAX_KL,
            damping=work.damping,
            cg_iterations=iterations,
            backend=cast(Backend, kernels_of(backend)),
            precision=precision,
            kl_reduction="mean",
            kl_direction="reverse",
            sync=backend != GRAPH,
        )

    call = as_timed(backend, update)

    def result() -> Tensor:
        reset()
        call()
        moved = theta - start
        reset()
        return moved

    return Timed(call, result, reset)


def _opponent_update(name: str, work: Workload, precision: str, iterations: int) -> Timed:
    batch = work.batch
    assert batch.actions is not None
    assert batch.advantages is not None and batch.log_probs is not None
    setup = opponents.UpdateSetup(
        make_setup(work),
        batch.actions,
        batch.advantages,
        batch.log_probs,
        MAX_KL,
        iterations,
    )
    opponent = opponents.UPDATE_OPPONENTS[name](setup, precision)

    def result() -> Tensor:
        opponent.reset()
        opponent.update()
        return torch.as_tensor(opponent.theta() - work.theta)

    return Timed(opponent.update, result, opponent.reset)


FVP = Suite(
    "fvp",
    _own_fvp,
    opponents.OPPONENTS,
    _opponent_fvp,
    lambda case, rows, iterations: case.fvp_flops(rows),
)
CG = Suite("cg", _own_cg, opponents.OPPONENTS, _opponent_cg, Case.solve_flops)
UPDATE = Suite(
    "update",
    _own_update,
    opponents.UPDATE_OPPONENTS,
    _opponent_update,
    Case.update_flops,
)
