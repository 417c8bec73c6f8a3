"""The suites of the policy update: what one call is and how many of its flops are useful.

fvp      F v with the forward already done
cg       (F + damping I) x = g from (parameters, obs, g) to x, forward and packing included
update   trpo_update from a batch to the new parameters, in sb3-contrib's KL conventions so that
         everyone computes the same step; beside it those of other steps, with three tenths of the
         products and K-FAC's factors (+kfac), and rat_update
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from .._base.choices import Backend
from .._base.options import UpdateOptions
from ..backends.registry import registry
from ..backends.support import SERVES, Support
from ..policy.flat import flat_params, write_params
from ..updates.info import UpdateInfo
from ..updates.natural import trpo_update, update_problem
from ..updates.operator import FisherOperator
from ..updates.rat import rat_update
from . import opponents
from .cases import Case, Workload
from .gain import best, gain
from .suite import GRAPH, Suite, Timed, as_timed, kernels_of, plain_and_preconditioned, solver_of

MAX_KL = 0.01
KFAC_SHARE = 0.3  # of the products, which is as good a step on batches from training
CONVENTIONS: UpdateOptions = {"kl_reduction": "mean", "kl_direction": "reverse"}  # sb3-contrib's


def make_setup(work: Workload) -> Any:
    return opponents.Setup(work.params(), work.obs, work.case.head, work.damping)


def own_operator(work: Workload, backend: str, precision: Any) -> FisherOperator:
    """Of a contender of ours, made anew as a user makes it for every solve."""
    return FisherOperator(
        work.policy,
        work.obs,
        damping=work.damping,
        backend=cast(Backend, kernels_of(backend)),
        precision=precision,
        sync=False,
    )


def _own_fvp(work: Workload, backend: str, precision: Any, iterations: int) -> Timed:
    operator = own_operator(work, backend, precision)
    call = as_timed(backend, lambda: operator @ work.g)
    return Timed(call, call)


def _opponent_fvp(name: str, work: Workload, precision: str, iterations: int) -> Timed:
    product = opponents.OPPONENTS[name](make_setup(work), precision).product()
    return Timed(lambda: product(work.g), lambda: product(work.g))


def _own_cg(work: Workload, backend: str, precision: Any, iterations: int) -> Timed:
    def solve() -> Tensor:
        return own_operator(work, backend, precision).solve(work.g, iterations=iterations).x

    call = as_timed(backend, solve)
    return Timed(call, call)


def _opponent_cg(name: str, work: Workload, precision: str, iterations: int) -> Timed:
    opponent = opponents.OPPONENTS[name](make_setup(work), precision)
    return Timed(
        lambda: opponent.timed(work.g, iterations), lambda: opponent.solve(work.g, iterations)
    )


def _own_update(work: Workload, name: str, precision: Any, iterations: int) -> Timed:
    contender, preconditioner = solver_of(name)
    own = kernels_of(contender)
    products = iterations if preconditioner is None else max(1, round(KFAC_SHARE * iterations))

    def call(work: Workload = work, backend: str = own, precision: Any = precision) -> UpdateInfo:
        options: UpdateOptions = {**CONVENTIONS, "precision": precision}
        return trpo_update(
            work.policy,
            work.batch,
            max_kl=MAX_KL,
            damping=work.damping,
            cg_iterations=products,
            preconditioner=preconditioner,
            backend=cast(Backend, backend),
            sync=contender != GRAPH,
            **options,
        )

    made = _moving(work, as_timed(contender, call))
    if preconditioner is not None:
        double = work.double()
        made.exact = lambda _: _moving(double, lambda: call(double, "reference", "fp32")).result()
        made.products = products
    return made


class Rat:
    """``rat_update`` on the fastest backend, as an opponent of the others."""

    @staticmethod
    def support(device: str) -> Support:
        """Whether it runs here."""
        return SERVES

    @staticmethod
    def precisions(device: str) -> tuple[str, ...]:
        """Those of its solve."""
        return ("fp32",)

    @staticmethod
    def timed(work: Workload) -> Timed:
        """A call, and its own result in float64."""

        def call(work: Workload = work) -> None:
            rat_update(work.policy, work.batch, max_kl=MAX_KL, damping=work.damping, **CONVENTIONS)

        made = _moving(work, call)
        double = work.double()
        made.exact = lambda _: _moving(double, lambda: call(double)).result()
        return made


def _moving(work: Workload, call: Callable[[], Any]) -> Timed:
    """A call that moves the policy, and what it moves it by."""
    theta, start = flat_params(work.policy), work.theta

    def reset() -> None:
        write_params(work.policy, theta, start)

    def result() -> Tensor:
        reset()
        call()
        moved = theta - start
        reset()
        return moved

    return Timed(call, result, reset)


def _opponent_update(name: str, work: Workload, precision: str, iterations: int) -> Timed:
    if name == RAT:
        return Rat.timed(work)
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


def _update_gain(work: Workload) -> Callable[[Tensor], float]:
    """The gain of a step under F + damping I in float64, F in closed form and of all rows."""
    exact = work.double()
    problem = update_problem(exact.policy, exact.batch, exact.damping, CONVENTIONS, True)
    operator = registry()["reference"].operator(problem)
    g, _ = operator.gradient()
    most = best(operator.fvp, g)
    return lambda x: gain(operator.fvp, g, x.to(g), most)


RAT = "rat"

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
    {RAT: Rat, **opponents.UPDATE_OPPONENTS},
    _opponent_update,
    Case.update_flops,
    contenders=plain_and_preconditioned,
    gain=_update_gain,
)
