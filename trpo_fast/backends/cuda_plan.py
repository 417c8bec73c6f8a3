"""What the fused kernels would do on a device: path, tile, shared memory and grid of a net's plan.

All of it follows from shapes and the device's limits, so that no GPU is needed to see it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from .._base import extension
from ..core.problem import BackendUnavailable, Problem
from ..policy.net import MLPPolicy
from ..policy.spec import NetSpec
from .cuda_launch import connected, device_index
from .native import native_shape

if TYPE_CHECKING:
    from .. import _C


def plan(spec: NetSpec, rows: int, limits: dict[str, int], **options: Any) -> dict[str, Any]:
    """Path, tile, shared memory and grid that the kernels would use; needs no GPU.

    ``limits``: multiprocessors, shared_bytes (one block may ask for) and arch (such as 90).
    """
    return cached_plan(spec, tuple(limits.items()), rows=rows, **options).describe()


def solve_us(
    spec: NetSpec, rows: int, limits: dict[str, int], *, products: int = 10, **options: Any
) -> float | None:
    """Microseconds that a solve with so many products should take, the forward pass included:
    predicted for an H200 by csrc/cuda/resident/predicted.h, not measured. None where the kernels
    refuse.
    """
    planned = cached_plan(spec, tuple(limits.items()), rows=rows, **options)
    if planned.refusal is not None:
        return None
    us = extension.native.cuda_predicted(net=native_shape(spec), plan=planned)
    return us["start_us"] + products * us["product_us"]


@functools.lru_cache(maxsize=256)
def cached_plan(
    spec: NetSpec,
    limits: tuple[tuple[str, int], ...],
    *,
    rows: int,
    fvp_count: int = 0,
    chunk_rows: int = 0,
    group_size: int = 0,
    precision: str = "fp32",
    grid: int = 0,
) -> _C.CudaPlan:
    """The native plan, made once for a shape however often it is asked for. ``fvp_count`` 0: every
    row.
    """
    native = extension.module()
    if native is None:
        raise BackendUnavailable(extension.why_missing())
    return extension.native.cuda_plan(
        net=native_shape(spec),
        rows=rows,
        fvp_count=fvp_count,
        chunk_rows=chunk_rows,
        group_size=group_size,
        precision=precision,
        grid=grid,
        **dict(limits),
    )


@functools.lru_cache(maxsize=256)
def room(spec: NetSpec, plan: _C.CudaPlan, index: int) -> int:
    """How many blocks of a plan's kernel the device runs at once."""
    return connected().cuda_room(net=native_shape(spec), plan=plan, device=index)


def plan_of(problem: Problem, grid: int = 0) -> _C.CudaPlan:
    """The plan of a problem on its device; ``grid`` fixes the number of blocks."""
    assert isinstance(problem.policy, MLPPolicy)
    return cached_plan(
        problem.policy.spec,
        tuple(connected().cuda_limits(device_index(problem.theta.device)).items()),
        rows=len(problem.batch),
        fvp_count=0 if problem.fvp_rows is None else problem.fvp_rows.numel(),
        chunk_rows=problem.chunk_rows or 0,
        group_size=problem.batch.group_size or 0,
        precision=problem.precision,
        grid=grid,
    )
