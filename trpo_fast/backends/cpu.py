"""``backend="cpu"``: the native core of csrc/cpu behind the ``Operator`` interface.

One native call per product, solve, gradient, evaluation and update; no torch operator runs inside.
Threads follow ``torch.get_num_threads()`` at each call; the bits do not depend on their number.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from .._base import extension
from .._base.threads import kernel_threads
from ..core.cg import CgResult
from ..core.operator import Operator
from ..core.problem import STATS, CgConfig, Problem, UpdateConfig
from ..core.surrogate import Measures
from ..policy.net import MLPPolicy
from .base import Backend
from .native import (
    SOLVED,
    NativeProblem,
    address,
    problem_support,
    readable,
    solved_by_kernels,
)
from .support import SERVES, Support, family_support

# The bfloat16 numbers that a float is split into, for the products with v.
PLANES = {"fp32": 0, "bf16x3": 2, "bf16x6": 3}


def _instruction_set() -> str:
    native = extension.module()
    return "none" if native is None else str(native.selected_isa())


def _isa_support() -> Support:
    """Whether TRPO_FAST_ISA, where it is set, names an instruction set of this processor."""
    try:
        _instruction_set()
    except ValueError as error:
        return Support(str(error))
    return SERVES


class CpuOperator(Operator):
    """The native operator, and the tensors whose memory it reads."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._inputs = NativeProblem(problem, self.theta)
        self._native = extension.native.CpuOperator(
            params=self._inputs.params,
            reverse_kl=problem.reverse_kl,
            bf16_planes=PLANES[problem.precision],
        )

    # ---- stages, for tests and study

    def forward(self) -> Tensor:
        """Distribution parameters [N, D]; zero where a row has no weight."""
        out = self._per_row()
        self._native.forward(params=address(out), threads=kernel_threads())
        return out

    def jvp(self, v: Tensor) -> Tensor:
        """J v [N, D]."""
        out, v = self._per_row(), readable(v)
        self._native.jvp(v=address(v), tangent=address(out), threads=kernel_threads())
        return out

    def metric(self, tangent: Tensor) -> Tensor:
        """M tangent [N, D]."""
        out, tangent = self._per_row(), readable(tangent)
        self._native.metric(tangent=address(tangent), out=address(out), threads=kernel_threads())
        return out

    def vjp(self, delta: Tensor) -> Tensor:
        """J' delta summed over rows [P]."""
        out, delta = torch.empty_like(self.theta), readable(delta)
        self._native.vjp(delta=address(delta), out=address(out), threads=kernel_threads())
        return out

    def factors(self, stride: int) -> list[tuple[Tensor, Tensor]]:
        """K-FAC's A [H_{l-1} + 1, H_{l-1} + 1] and G [H_l, H_l] of every map, from one of
        ``stride`` of the product's rows.
        """
        policy = self.problem.policy
        assert isinstance(policy, MLPPolicy)
        sizes = [n for fan_in, out in pairwise(policy.spec.widths) for n in (fan_in + 1, out)]
        flat = self.theta.new_empty(sum(n * n for n in sizes))
        self._native.factors(stride=stride, out=address(flat), threads=kernel_threads())
        parts = flat.split([n * n for n in sizes])
        squares = [part.view(n, n) for part, n in zip(parts, sizes, strict=True)]
        return list(zip(squares[::2], squares[1::2], strict=True))

    def precondition(self, r: Tensor, stride: int) -> Tensor:
        """M^-1 r [P], M of those factors."""
        z, r = torch.empty_like(r), readable(r)
        self._native.precondition(
            stride=stride, r=address(r), z=address(z), threads=kernel_threads()
        )
        return z

    def _per_row(self) -> Tensor:
        policy = self.problem.policy
        assert isinstance(policy, MLPPolicy)
        return self.theta.new_zeros(len(self.problem.batch), policy.head.parameters_per_row)

    # ---- fused

    def fvp(self, v: Tensor) -> Tensor:
        v = readable(v)
        out = torch.empty_like(v)
        columns = v.shape[0] if v.ndim == 2 else 1
        self._native.fvp(v=address(v), columns=columns, out=address(out), threads=kernel_threads())
        return out

    def solve(self, g: Tensor, config: CgConfig) -> CgResult:
        if callable(config.preconditioner):
            return super().solve(g, config)
        g = readable(g)
        x = torch.empty_like(g)
        columns = g.shape[0] if g.ndim == 2 else 1
        solved = torch.empty(*g.shape[:-1], SOLVED, dtype=torch.float64, device="cpu")
        self._native.solve(
            g=address(g),
            columns=columns,
            iterations=config.iterations,
            tol=config.tol,
            gain_tol=config.gain_tol,
            factor_stride=self.stride(config),
            x=address(x),
            table=address(solved),
            threads=kernel_threads(),
        )
        return solved_by_kernels(x, solved, self.factor_rows(config))

    def gradient(self) -> tuple[Tensor, Measures]:
        g = torch.empty_like(self.theta)
        return g, _measures(self._native.gradient(g=address(g), threads=kernel_threads()))

    def evaluate(self, theta: Tensor) -> Measures:
        theta = readable(theta)
        return _measures(self._native.evaluate(theta=address(theta), threads=kernel_threads()))

    def bad_values(self) -> Tensor:
        bad = self._native.bad_values(threads=kernel_threads())
        return torch.tensor(bad, dtype=torch.bool, device="cpu")

    @property
    def scratch_bytes(self) -> int:
        return self._native.scratch_bytes

    def update(self, config: UpdateConfig) -> Tensor:
        if callable(config.cg.preconditioner):
            return super().update(config)
        stats = torch.zeros(len(STATS), dtype=torch.float64, device="cpu")
        self._native.update(
            theta=address(self.problem.theta),
            stats=address(stats),
            iterations=config.cg.iterations,
            tol=config.cg.tol,
            gain_tol=config.cg.gain_tol,
            factor_stride=self.stride(config.cg),
            max_kl=float(config.max_kl),
            ratio=config.backtrack_ratio,
            steps=config.backtrack_steps,
            search=config.search,
            limit_max=self.problem.constraint == "max",
            learning_rate=config.learning_rate or 0.0,
            threads=kernel_threads(),
        )
        return stats


def _measures(values: tuple[float, float, float, float]) -> Measures:
    tensors = (torch.tensor(value, dtype=torch.float64, device="cpu") for value in values)
    return Measures(*tensors)


class CpuBackend(Backend):
    """MLP policies in float32 on the CPU."""

    name = "cpu"
    precisions = tuple(PLANES)

    def machine_support(self) -> Support:
        return family_support("cpu") and _isa_support()

    def precision_support(self, precision: str) -> Support:
        if PLANES.get(precision) and (isa := _instruction_set()) != "amx":
            return Support(f"precision={precision!r} needs a CPU with AMX tiles; in use is {isa}")
        return super().precision_support(precision)

    def problem_support(self, problem: Problem) -> Support:
        return problem_support(problem, "cpu")

    def operator(self, problem: Problem) -> CpuOperator:
        return CpuOperator(problem)
