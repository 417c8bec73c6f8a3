"""Updates as work that may be recorded: rows go in, statistics come out, and the parameters of the
policy are written where they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from ..backends.base import Backend
from ..backends.captured import Work, perform
from ..core.problem import CgConfig, Problem

NOT_KEYS = ("policy", "theta", "batch", "fvp_rows", "capture")


def run_update(
    problem: Problem,
    backend: Backend,
    name: str,
    options: Hashable,
    update: Callable[[Problem], Tensor],
    *,
    unrecordable: str = "",
) -> tuple[Tensor, bool]:
    """The statistics of ``update``, and whether they came from a replay. All that it does follows
    from the problem, the backend, the policy and ``options``.
    """
    tensors = {n: t for n, t in vars(problem.batch).items() if isinstance(t, Tensor)}
    inputs = dict(tensors)
    if problem.fvp_rows is not None:
        inputs["fvp_rows"] = problem.fvp_rows

    def run(given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        rows: dict[str, Any] = {n: given[n] for n in tensors}
        batch = replace(problem.batch, **rows)
        return (update(replace(problem, batch=batch, fvp_rows=given.get("fvp_rows"))),)

    fixed = tuple(getattr(problem, f.name) for f in fields(problem) if f.name not in NOT_KEYS)
    work = Work(
        problem.policy,
        name,
        (backend.name, problem.batch.group_size, fixed, options),
        inputs,
        (problem.theta,),
        run,
        unrecordable,
    )
    outcome = perform(work, capture=problem.capture and backend.records(problem))
    return outcome.results[0], outcome.captured


def own_code(config: CgConfig) -> str:
    """Why a solve cannot be recorded, as far as its settings tell."""
    return "its preconditioner is a function of the caller's" * callable(config.preconditioner)
