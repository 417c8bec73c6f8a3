"""Updates and solves as work that may be recorded: rows go in, statistics or a solution come out,
and an update writes the parameters of the policy where they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from .._base.rows import parts_of, with_parts
from ..backends.base import Backend
from ..backends.captured import Work, perform, records
from ..core.cg import CgResult
from ..core.operator import Operator
from ..core.problem import CgConfig, Problem

NOT_KEYS = ("policy", "theta", "batch", "fvp_rows", "capture")


def run_update(
    problem: Problem,
    backend: Backend,
    name: str,
    options: Hashable,
    update: Callable[..., Any],
    *numbers: float | Tensor,
    unrecordable: str = "",
) -> tuple[Any, bool]:
    """The results that ``update`` of a problem and ``numbers`` returns, and whether they came from
    a replay. All that it does follows from these, the backend, the policy and ``options``; the
    numbers may be others at every call, and are 0-d tensors where the update may be recorded.
    """
    inputs = _rows(problem)
    capture = _captures(problem, backend)
    if capture and not unrecordable:
        for i, number in enumerate(numbers):
            inputs[f"number {i}"] = filled(number, problem.theta)

    def run(given: Mapping[str, Tensor]) -> Any:
        here = [given.get(f"number {i}", number) for i, number in enumerate(numbers)]
        return update(_of_rows(problem, given), *here)

    settings = (_settings(problem, backend), options)
    work = Work(problem.policy, name, settings, inputs, (problem.theta,), run, unrecordable)
    found = perform(work, capture=capture)
    return found.results, found.captured


def filled(number: float | Tensor, like: Tensor) -> Tensor:
    """A number as 0-d float64 in the device's memory: a copy to it would wait."""
    if isinstance(number, Tensor):
        return number
    return torch.full((), number, dtype=torch.float64, device=like.device)


def run_solve(operator: Operator, backend: Backend, g: Tensor, config: CgConfig) -> CgResult:
    """``operator.solve(g, config)``, whose theta is the policy's own."""
    problem = operator.problem
    if not _captures(problem, backend):
        return operator.solve(g, config)

    def run(given: Mapping[str, Tensor]) -> CgResult:
        return backend.operator(_of_rows(problem, given)).solve(given["g"], config)

    settings, inputs = (_settings(problem, backend), config), {**_rows(problem), "g": g}
    name, refusal = "FisherOperator.solve", own_code(config)
    work = Work(problem.policy, name, settings, inputs, (), run, refusal)
    found: CgResult = perform(work, capture=True).results
    return found


def own_code(config: CgConfig) -> str:
    """Why a solve cannot be recorded, as far as its settings tell."""
    return "its preconditioner is a function of the caller's" * callable(config.preconditioner)


def _captures(problem: Problem, backend: Backend) -> bool:
    if problem.share is not None:  # sums over ranks are not in what is recorded
        return False
    return problem.capture and backend.records(problem) and records(problem.theta.device)


def _settings(problem: Problem, backend: Backend) -> Hashable:
    """All of a problem but its tensors and its policy."""
    fixed = tuple(getattr(problem, f.name) for f in fields(problem) if f.name not in NOT_KEYS)
    return backend.name, problem.batch.group_size, problem.batch.sequence_length, fixed


def _rows(problem: Problem) -> dict[str, Tensor]:
    """The tensors that another call has others for."""
    batch = vars(problem.batch)
    rows = {name: t for name, t in batch.items() if isinstance(t, Tensor) and name != "obs"}
    rows |= parts_of(problem.batch.obs, "obs")
    return rows if problem.fvp_rows is None else {**rows, "fvp_rows": problem.fvp_rows}


def _of_rows(problem: Problem, given: Mapping[str, Tensor]) -> Problem:
    """The problem on other rows of the same shapes."""
    rows: dict[str, Any] = {name: given[name] for name in vars(problem.batch) if name in given}
    names = [name for name, _ in parts_of(problem.batch.obs, "obs")]
    rows["obs"] = with_parts(problem.batch.obs, iter([given[name] for name in names]))
    batch = replace(problem.batch, **rows)
    return replace(problem, batch=batch, fvp_rows=given.get("fvp_rows"))
