"""``FisherOperator``: the Fisher information matrix of a policy as a thing one can multiply by and
solve with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from .._base.choices import Backend, FisherKind, KlReduction, Precision, PreconditionerKind
from .._base.options import KernelSettings, UpdateSettings
from .._base.ranks import digest, digest_of
from .._base.rows import Rows
from .._base.settings import declared
from ..backends.ranks import RankOperator
from ..backends.registry import resolve
from ..core import checks
from ..core.batch import Batch
from ..core.operator import Operator, columns_last
from ..core.problem import CgConfig, Problem
from ..core.search_checks import check_solve
from ..policy.flat import Snapshot
from .problems import operator_problem
from .recorded import run_solve
from .solution import Solution

KERNELS = declared(KernelSettings)


class FisherOperator:
    """F = sum_n w_n J_n' M_n J_n / sum_n w_n + damping I at the policy's present parameters.

    J_n [D, P] is the Jacobian of row n's distribution parameters and M_n [D, D] their Fisher
    information. The operator is the matrix at one moment and reads its rows where they lie: once
    the parameters, ``obs`` or another of its tensors have been written, using it raises
    ``RuntimeError``. Writes that torch does not see, through a NumPy array that shares the memory,
    go unnoticed in the rows: give ``obs.clone()`` if such a buffer is to be filled again.
    ``sequence_length``, ``starts`` and ``state`` are those of a ``Batch``, for a policy with a
    memory. ``deterministic=False`` lets the CUDA kernels add by atomics: a barrier less for each
    product of a solve, and bits that differ from run to run. With a ``group`` the rows are those of
    all its processes, each of which makes the operator and calls it with the same vectors.

    >>> F = FisherOperator(policy, obs, damping=0.1)
    >>> F @ v                          # [P], or [P, K] for K right-hand sides
    >>> F.solve(g, iterations=10).x    # conjugate gradient from zero
    """

    def __init__(
        self,
        policy: nn.Module,
        obs: Rows,
        *,
        damping: float = UpdateSettings.damping,
        weights: Tensor | None = None,
        action_mask: Tensor | None = None,
        kl_reduction: KlReduction = UpdateSettings.kl_reduction,
        fisher: FisherKind = UpdateSettings.fisher,
        actions: Tensor | None = None,
        fvp_rows: int | Tensor | None = None,
        chunk_rows: int | None = KernelSettings.chunk_rows,
        backend: Backend = KernelSettings.backend,
        precision: Precision = KernelSettings.precision,
        deterministic: bool = KernelSettings.deterministic,
        sequence_length: int | None = None,
        starts: Tensor | None = None,
        state: Tensor | None = None,
        capture: bool = KernelSettings.capture,
        group: ProcessGroup | None = None,
        sync: bool = True,
    ) -> None:
        rows = Batch(
            obs,
            actions,
            weights=weights,
            action_mask=action_mask,
            sequence_length=sequence_length,
            starts=starts,
            state=state,
        )
        options = {
            "damping": damping,
            "kl_reduction": kl_reduction,
            "fisher": fisher,
            "chunk_rows": KERNELS["chunk_rows"].check(chunk_rows),
            "precision": precision,
            "deterministic": deterministic,
            "capture": capture,
            "sync": sync,
        }
        problem = operator_problem(policy, rows, group, fvp_rows, options)
        policy, theta = problem.policy, problem.theta
        self._backend = chosen = resolve(backend, problem)
        self.damping = problem.damping
        self._sync = sync
        self._operator: Operator = chosen.operator(problem)
        self._snapshot = Snapshot(policy, theta, self._operator.theta)
        self._rows = _Rows(problem)
        self._operator.raise_failure()
        if sync and bool(self._operator.bad_values()):
            checks.raise_for_values(problem)

    @property
    def backend(self) -> str:
        """Who computes."""
        return self._backend.name

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P), as of a matrix."""
        size = self._snapshot.theta.numel()
        return size, size

    @property
    def dtype(self) -> torch.dtype:
        """That of the policy's parameters."""
        return self._snapshot.theta.dtype

    @property
    def scratch_bytes(self) -> int:
        """Memory the operator holds beside its inputs."""
        return self._operator.scratch_bytes

    def __matmul__(self, v: Tensor) -> Tensor:
        """F v + damping v [P], or [P, K] for K right-hand sides v [P, K]."""
        v, _ = self._given("v", v, look=self._sync)
        product = self._operator.fvp(v)
        self._operator.raise_failure()
        return columns_last(product)

    def solve(
        self,
        g: Tensor,
        iterations: int = UpdateSettings.cg_iterations,
        tol: float = UpdateSettings.cg_tol,
        *,
        gain_tol: float = UpdateSettings.cg_gain_tol,
        preconditioner: PreconditionerKind
        | Callable[[Tensor], Tensor]
        | None = UpdateSettings.preconditioner,
        factor_fraction: float = UpdateSettings.factor_fraction,
    ) -> Solution:
        """Conjugate gradient on (F + damping I) x = g, g [P] or [P, K], from x = 0; stops early at
        |r| <= tol |g|, or once two products in a row have each brought at most ``gain_tol`` of
        x'(F + damping I)x.

        ``preconditioner="kfac"`` takes about a third of the products to an equally good x: one
        Kronecker pair a linear map, from ``factor_fraction`` of the rows. A callable takes
        residuals of the shape of g to M^-1 r, M positive definite. One that is not, or gives NaN,
        has plain CG begin anew.
        """
        g, config = self._given(
            "g", g, iterations, tol, gain_tol, preconditioner, factor_fraction, look=False
        )
        found = run_solve(self._operator, self._backend, g, config)
        self._operator.raise_failure()
        # Bad values of g reach every residual, so that g itself need not be read before.
        if self._sync and not checks.all_finite(found.residual_norm):
            self._check_finite("g", g)
        return Solution(
            columns_last(found.x),
            found.quad,
            found.residual_norm,
            found.iterations,
            found.linear_gain,
            found.restarts,
            found.factor_rows,
            found.scaled_blocks,
        )

    def dense(self) -> Tensor:
        """The matrix itself, [P, P] in float64, from autograd's Jacobian of the distribution
        parameters: an oracle.
        """
        from ..core.oracle import dense_fisher

        self._check_fresh()
        if isinstance(self._operator, RankOperator):
            found = self._operator.dense()
            self._operator.raise_failure()
            return found
        return dense_fisher(self._operator.problem)

    def _given(self, name: str, v: Tensor, *solve: Any, look: bool) -> tuple[Tensor, CgConfig]:
        """A vector [P] or rows [K, P] and how it is solved for, checked; on all ranks the same."""

        def check() -> tuple[Tensor, CgConfig]:
            config = check_solve(*solve) if solve else CgConfig()
            self._check_fresh()
            checked = checks.check_vector(name, v, self._snapshot.theta)
            if look:
                self._check_finite(name, checked)
            return checked, config

        share = self._operator.problem.share
        if share is None:
            return check()
        found, table = share.ranks.together(check, lambda f: (digest(f[0]), digest_of(f[1])))
        same = "the same values on every rank"
        share.ranks.check_same(name, same, [row[0] for row in table])
        share.ranks.check_same("solve", "the same options on every rank", [r[1] for r in table])
        return found

    def _check_finite(self, name: str, v: Tensor) -> None:
        if not checks.all_finite(v):
            raise checks.fail(name, "finite values", "NaN or infinity")

    def _check_fresh(self) -> None:
        if self._snapshot.changed():
            raise RuntimeError(
                "FisherOperator: the policy's parameters have changed since it was made; "
                "make a new one"
            )
        if name := self._rows.written():
            raise RuntimeError(
                f"FisherOperator: {name} has been written since it was made, and it reads {name} "
                f"in place; make a new one, or give it a copy that stays"
            )

    def __repr__(self) -> str:
        options = f"damping={self.damping:g}, backend={self.backend!r}"
        return f"FisherOperator(shape={self.shape}, {options})"


class _Rows:
    """The tensors a problem reads in place, each with torch's count of the writes it has seen."""

    def __init__(self, problem: Problem) -> None:
        tensors = dict(problem.batch.tensors())
        if problem.fvp_rows is not None:
            tensors["fvp_rows"] = problem.fvp_rows
        self._seen = {
            name: (value, value._version)
            for name, value in tensors.items()
            if not value.is_inference()
        }

    def written(self) -> str | None:
        """The name of a tensor written since."""
        for name, (tensor, version) in self._seen.items():
            if tensor._version != version:
                return name
        return None
