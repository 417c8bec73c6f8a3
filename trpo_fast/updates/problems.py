"""From the arguments of an operator or an update to the checked problem that a backend gets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.distributed import ProcessGroup

from .._base import extension
from .._base.options import KernelSettings, UpdateSettings
from .._base.ranks import members
from .._base.settings import declared
from ..core import checks
from ..core.batch import Batch
from ..core.problem import Problem
from ..core.ranks import padded, whole_problem

UPDATE, KERNELS = declared(UpdateSettings), declared(KernelSettings)


def make_problem(
    policy: nn.Module,
    batch: Batch,
    *,
    theta: Tensor,
    damping: float,
    kl_reduction: str = UpdateSettings.kl_reduction,
    kl_direction: str = UpdateSettings.kl_direction,
    constraint: str = UpdateSettings.constraint,
    fisher: str = UpdateSettings.fisher,
    fvp_rows: int | Tensor | None = None,
    chunk_rows: int | None = KernelSettings.chunk_rows,
    precision: str = KernelSettings.precision,
    deterministic: bool = KernelSettings.deterministic,
    capture: bool = KernelSettings.capture,
    sync: bool = True,
) -> Problem:
    """Check what remains of the options and put them beside an already checked batch. Without
    ``sync`` nothing is asked of a device.
    """
    UPDATE["fisher"].check(fisher)
    chunk_rows = KERNELS["chunk_rows"].check(chunk_rows)
    if fisher == "empirical" and batch.actions is None:
        raise checks.fail("actions", "the actions taken, which fisher='empirical' needs", "None")
    return Problem(
        policy=policy,
        theta=theta,
        batch=batch,
        damping=UPDATE["damping"].check(damping),
        kl_scale=checks.kl_scale(policy, kl_reduction, batch, chunk_rows),
        reverse_kl=UPDATE["kl_direction"].check(kl_direction) == "reverse",
        fisher=fisher,
        fvp_rows=checks.check_fvp_rows(
            fvp_rows,
            theta,
            len(batch),
            check_values=sync or not extension.asynchronous(theta.device),
            sequence_length=batch.sequence_length,
        ),
        chunk_rows=chunk_rows,
        precision=KERNELS["precision"].check(precision),
        deterministic=KERNELS["deterministic"].check(deterministic),
        capture=KERNELS["capture"].check(capture),
        constraint=UPDATE["constraint"].check(constraint),
    )


def operator_problem(
    policy: nn.Module,
    rows: Batch,
    group: ProcessGroup | None,
    fvp_rows: int | Tensor | None,
    options: dict[str, Any],
) -> Problem:
    """The checked problem of an operator."""
    ranks = members(group)

    def make(fvp_rows: int | Tensor | None) -> tuple[Problem, int]:
        module, theta = checks.check_policy(policy)
        given = padded(rows, theta, ranks)
        batch = checks.check_rows(module, theta, given)
        if given.actions is not None:
            chunk_rows = options["chunk_rows"]
            taken = checks.check_actions(module, theta, given.actions, batch, chunk_rows)
            batch = replace(batch, actions=taken)
        made = make_problem(module, batch.tracked(), theta=theta, fvp_rows=fvp_rows, **options)
        return made, len(rows)

    return whole_problem(ranks, make, fvp_rows, options["sync"], "FisherOperator")
