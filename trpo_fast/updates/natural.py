"""``trpo_update`` and ``npg_update``, and how every update begins and ends.

Each takes a policy and a ``Batch``, moves the policy's parameters in place if the step is
acceptable, and returns an ``UpdateInfo``. A step that is not accepted leaves every bit of the
parameters as it was and says why in ``info.reason``.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from typing_extensions import Unpack

from .._base.choices import Backend, PreconditionerKind
from .._base.options import GradientSettings, KernelSettings, UpdateOptions, UpdateSettings
from .._base.ranks import members
from .._base.settings import declared
from ..backends.registry import resolve
from ..core import checks
from ..core.batch import Batch
from ..core.problem import Problem, UpdateConfig
from ..core.ranks import padded, whole_problem
from ..core.search_checks import check_cg, check_search
from ..policy.flat import mark_written
from .info import KlFrom, UpdateInfo
from .problems import KERNELS, make_problem
from .recorded import own_code, run_update

OPTIONS = tuple(UpdateOptions.__annotations__)
GRADIENT = declared(GradientSettings)
Apply = Callable[[Tensor], Tensor]  # residuals [P] to M^-1 r


def trpo_update(
    policy: nn.Module,
    batch: Batch,
    *,
    max_kl: float = UpdateSettings.max_kl,
    damping: float = UpdateSettings.damping,
    cg_iterations: int = UpdateSettings.cg_iterations,
    cg_tol: float = UpdateSettings.cg_tol,
    cg_gain_tol: float = UpdateSettings.cg_gain_tol,
    preconditioner: PreconditionerKind | Apply | None = UpdateSettings.preconditioner,
    factor_fraction: float = UpdateSettings.factor_fraction,
    backtrack_ratio: float = UpdateSettings.backtrack_ratio,
    backtrack_steps: int = UpdateSettings.backtrack_steps,
    sync: bool = True,
    backend: Backend = KernelSettings.backend,
    **options: Unpack[UpdateOptions],
) -> UpdateInfo:
    """Maximise the surrogate subject to mean KL <= max_kl: x = (F + damping I)^-1 g by CG, then a
    line search.

    theta <- theta + c^j sqrt(2 max_kl / x'(F + damping I)x) x for the first j < backtrack_steps
    that keeps the KL within max_kl and improves the surrogate. With damping the full step's KL is
    below max_kl, about x'Fx / x'(F + damping I)x of it. With the batch's ``old_params``, max_kl
    limits the KL to the policy that sampled it: from a KL of k at the call the first trial is
    (sqrt(max_kl) - sqrt(k)) sqrt(2 / x'(F + damping I)x) x, and a call that begins at its limit
    moves nothing (``at_kl_limit``). ``constraint="max"`` has the line search hold the largest KL of
    a state to max_kl; its first trial is the same, so that it backtracks more. ``preconditioner``:
    "kfac", or a function that takes residuals [P] to M^-1 r, M positive definite. ``sync=False``
    returns without waiting for the device. ``options`` are those of ``trpo_fast.UpdateOptions``,
    which says what each is; their defaults, here and everywhere, are ``Config``'s.
    """
    config = check_search(
        max_kl=max_kl,
        cg_iterations=cg_iterations,
        cg_tol=cg_tol,
        cg_gain_tol=cg_gain_tol,
        preconditioner=preconditioner,
        factor_fraction=factor_fraction,
        backtrack_ratio=backtrack_ratio,
        backtrack_steps=backtrack_steps,
    )
    return _natural_update(policy, batch, config, damping, sync, backend, options, trpo_update)


def npg_update(
    policy: nn.Module,
    batch: Batch,
    *,
    learning_rate: float | None = GradientSettings.npg_learning_rate,
    max_kl: float = UpdateSettings.max_kl,
    damping: float = UpdateSettings.damping,
    cg_iterations: int = UpdateSettings.cg_iterations,
    cg_tol: float = UpdateSettings.cg_tol,
    cg_gain_tol: float = UpdateSettings.cg_gain_tol,
    preconditioner: PreconditionerKind | Apply | None = UpdateSettings.preconditioner,
    factor_fraction: float = UpdateSettings.factor_fraction,
    sync: bool = True,
    backend: Backend = KernelSettings.backend,
    **options: Unpack[UpdateOptions],
) -> UpdateInfo:
    """Natural policy gradient, x = (F + damping I)^-1 g by CG: theta <- theta + learning_rate x, or
    without a rate theta + sqrt(2 max_kl / x'(F + damping I)x) x.

    No line search: the step is taken if it, its KL and its surrogate are finite (else
    ``non_finite``). With the batch's ``old_params`` a step without a rate is as long as the first
    trial of ``trpo_update``. Options as there.
    """
    config = UpdateConfig(
        max_kl=checks.UPDATE["max_kl"].check(max_kl),
        cg=check_cg(
            cg_iterations=cg_iterations,
            cg_tol=cg_tol,
            cg_gain_tol=cg_gain_tol,
            preconditioner=preconditioner,
            factor_fraction=factor_fraction,
        ),
        search=False,
        learning_rate=GRADIENT["npg_learning_rate"].check(learning_rate, "learning_rate"),
    )
    return _natural_update(policy, batch, config, damping, sync, backend, options, npg_update)


def _natural_update(
    policy: nn.Module,
    batch: Batch,
    config: UpdateConfig,
    damping: float,
    sync: bool,
    backend: Backend,
    options: UpdateOptions,
    update: Callable[..., UpdateInfo],
) -> UpdateInfo:
    problem = update_problem(policy, batch, damping, options, sync, update, config)
    chosen = resolve(backend, problem)
    try:
        stats, captured = run_update(
            problem,
            chosen,
            update.__name__,
            replace(config, max_kl=0.0),
            lambda given, limit: chosen.operator(given).update(replace(config, max_kl=limit)),
            config.max_kl,
            unrecordable=own_code(config.cg),
        )
    finally:  # Ctrl-C may come right after the write
        mark_written(problem.policy)
    return finish(problem, chosen.name, stats, sync, captured)


def unknown_option(name: str, update: Callable[..., UpdateInfo]) -> TypeError:
    """The error about a keyword that ``update`` does not have."""
    keywords = inspect.signature(update).parameters.values()
    known = (*(k.name for k in keywords if k.kind is k.KEYWORD_ONLY), *OPTIONS)
    close = difflib.get_close_matches(name, known, n=1)
    wanted = f"an option such as {close[0]!r}" if close else f"one of the options {known}"
    return TypeError(f"{name}: expected {wanted}, got an unknown name")


def update_problem(
    policy: nn.Module,
    batch: Batch,
    damping: float,
    options: UpdateOptions,
    sync: bool,
    update: Callable[..., UpdateInfo] = trpo_update,
    settings: Any = None,
) -> Problem:
    """The checked problem that ``update`` hands to a backend; ``settings`` are the update's own,
    which have to be the same on all ranks of a group.
    """
    for name in options:
        if name not in OPTIONS:
            raise unknown_option(name, update)
    given: dict[str, Any] = dict(options)
    ranks, rows = members(given.pop("group", None)), given.pop("fvp_rows", None)

    def make(fvp_rows: int | Tensor | None) -> tuple[Problem, int]:
        module, theta = checks.check_policy(policy)
        chunk_rows = KERNELS["chunk_rows"].check(options.get("chunk_rows"))
        checked = checks.check_batch(module, theta, padded(batch, theta, ranks), chunk_rows)
        fixed: dict[str, Any] = {"theta": theta, "damping": damping, "sync": sync}
        return make_problem(module, checked, fvp_rows=fvp_rows, **fixed, **given), len(batch)

    return whole_problem(ranks, make, rows, sync, (update.__name__, settings))


def finish(
    problem: Problem, backend: str, stats: Tensor, sync: bool, captured: bool = False
) -> UpdateInfo:
    """What an update reports. With ``sync``, read the reason and turn unusable values into an error
    that names the argument.
    """
    kl_from: KlFrom = "call" if problem.batch.old_params is None else "sampler"
    info = UpdateInfo(backend, stats, kl_from, captured)
    if sync and info.reason in ("bad_values", "non_finite"):
        checks.raise_for_values(problem)
    return info
