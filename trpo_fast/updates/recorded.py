"""Updates as work that may be recorded: rows go in, statistics come out, and the parameters of the
policy are written where they lie.
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
from ..core.problem import CgConfig, Problem

NOT_KEYS = ("policy", "theta", "batch", "fvp_rows", "capture")


def run_update(
    problem: Problem,
    backend: Backend,
    name: str,
    options: Hashable,
    update: Callable[..., Tensor],
    *numbers: float,
    unrecordable: str = "",
) -> tuple[Tensor, bool]:
    """The statistics that ``update`` of a problem and ``numbers`` returns, and whether they came
    from a replay. All that it does follows from these, the backend, the policy and ``options``; the
    numbers may be others at every call, and are 0-d tensors where the update may be recorded.
    """
    obs = dict(parts_of(problem.batch.obs, "obs"))
    tensors = {n: t for n, t in vars(problem.batch).items() if isinstance(t, Tensor) and n != "obs"}
    inputs = obs | tensors
    if problem.fvp_rows is not None:
        inputs["fvp_rows"] = problem.fvp_rows
    capture = problem.capture and backend.records(problem) and records(problem.theta.device)
    if capture and not unrecordable:
        for i, number in enumerate(numbers):  # filled on the device: a copy to it would wait
            filled = torch.full((), number, dtype=torch.float64, device=problem.theta.device)
            inputs[f"number {i}"] = filled

    def run(given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        rows: dict[str, Any] = {n: given[n] for n in tensors}
        rows["obs"] = with_parts(problem.batch.obs, iter([given[name] for name in obs]))
        batch = replace(problem.batch, **rows)
        here = [given.get(f"number {i}", number) for i, number in enumerate(numbers)]
        return (update(replace(problem, batch=batch, fvp_rows=given.get("fvp_rows")), *here),)

    fixed = tuple(getattr(problem, f.name) for f in fields(problem) if f.name not in NOT_KEYS)
    work = Work(
        problem.policy,
        name,
        (backend.name, problem.batch.group_size, problem.batch.sequence_length, fixed, options),
        inputs,
        (problem.theta,),
        run,
        unrecordable,
    )
    outcome = perform(work, capture=capture)
    return outcome.results[0], outcome.captured


def own_code(config: CgConfig) -> str:
    """Why a solve cannot be recorded, as far as its settings tell."""
    return "its preconditioner is a function of the caller's" * callable(config.preconditioner)
