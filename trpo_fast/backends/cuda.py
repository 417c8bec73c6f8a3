"""``backend="cuda"``: a product, a solve or a whole update in one cooperative launch.

The kernels get raw pointers and the current stream; scratch comes from torch's allocator, nothing
waits for the device. With TRPO_FAST_EMULATE set (1, or the path of the library) the same kernels
run on the host, on CPU tensors.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._base import extension
from ..core.cg import CgResult
from ..core.operator import Operator
from ..core.problem import STATS, BackendUnavailable, CgConfig, Problem, UpdateConfig
from ..core.surrogate import Measures
from ..policy.net import MLPPolicy
from .base import Backend
from .cuda_launch import DeviceFault, connected, current_stream, device_index, explained, place
from .cuda_machine import machine_support, serves
from .cuda_plan import plan_of, room
from .native import SOLVED, NativeProblem, problem_support, readable, solved_by_kernels
from .support import SERVES, Support
from .wide import machine as wide

if TYPE_CHECKING:
    from .. import _C

RESIDENT_PRECISIONS = ("fp32", "fp16x3")
_EVALUATION = 5  # kl, max_kl, surrogate, entropy, whether a value is bad


class CudaOperator(Operator):
    """Owns contiguous inputs for as long as the native operator points to them.

    ``atomics`` trades equal bits from run to run for one grid barrier less per product; ``grid``
    fixes the number of blocks (0: as config.h chooses).
    """

    def __init__(self, problem: Problem, *, atomics: bool = False, grid: int = 0) -> None:
        super().__init__(problem)
        self._device = problem.theta.device
        with explained():
            self._inputs = NativeProblem(problem, self.theta)
            self._plan = plan_of(problem, grid)
            self._op: _C.CudaOperator = connected().CudaOperator(
                params=self._inputs.params,
                plan=self._plan,
                reverse_kl=problem.reverse_kl,
                device=device_index(self._device),
                atomics=atomics,
            )

    def plan(self) -> dict[str, Any]:
        return self._plan.describe()

    def _launch(self, entry: str, **arguments: Any) -> None:
        """One launch on the current stream; the scratch goes back to torch's allocator, which hands
        it to later work of the same stream only.
        """
        stream = current_stream(self._device)
        with explained(self._device):
            stride = arguments.get("factor_stride", 0)
            size = self._op.scratch_bytes(factor_stride=stride) + 256
            scratch = torch.empty(size, dtype=torch.uint8, device=self._device)
            aligned = (scratch.data_ptr() + 255) // 256 * 256
            getattr(self._op, entry)(**arguments, scratch=aligned, stream=stream)

    def _doubles(self, *shape: int) -> Tensor:
        with explained():
            return torch.empty(shape, dtype=torch.float64, device=self._device)

    def fvp(self, v: Tensor) -> Tensor:
        v = readable(v)
        out = torch.empty_like(v)
        columns = 1 if v.ndim == 1 else v.shape[0]
        self._launch("fvp", v=v.data_ptr(), out=out.data_ptr(), columns=columns)
        return out

    def solve(self, g: Tensor, config: CgConfig) -> CgResult:
        if callable(config.preconditioner):
            return super().solve(g, config)
        g = readable(g)
        x = torch.empty_like(g)
        columns = 1 if g.ndim == 1 else g.shape[0]
        stats = self._doubles(columns, SOLVED)
        self._launch(
            "solve",
            g=g.data_ptr(),
            x=x.data_ptr(),
            stats=stats.data_ptr(),
            columns=columns,
            iterations=config.iterations,
            tol=config.tol,
            gain_tol=config.gain_tol,
            factor_stride=self.stride(config),
        )
        solved = stats.reshape(*g.shape[:-1], SOLVED)
        return solved_by_kernels(x, solved, self.factor_rows(config))

    def gradient(self) -> tuple[Tensor, Measures]:
        g, stats = self._gradient()
        if self.problem.batch.old_params is not None:  # its pass measures no KL
            return g, self.evaluate(self.theta)
        return g, self._measures(stats)

    def _gradient(self) -> tuple[Tensor, Tensor]:
        g, stats = torch.empty_like(self.theta), self._doubles(_EVALUATION)
        self._launch("gradient", g=g.data_ptr(), stats=stats.data_ptr())
        return g, stats

    def evaluate(self, theta: Tensor) -> Measures:
        theta, stats = readable(theta), self._doubles(_EVALUATION)
        self._launch("evaluate", theta=theta.data_ptr(), stats=stats.data_ptr())
        return self._measures(stats)

    def _measures(self, stats: Tensor) -> Measures:
        kl, max_kl, surrogate, entropy, _ = stats.to(self.theta.dtype).unbind()
        return Measures(kl, max_kl, surrogate, entropy)

    def update(self, config: UpdateConfig) -> Tensor:
        if callable(config.cg.preconditioner):
            return super().update(config)
        stats = self._doubles(len(STATS))
        self._launch(
            "update",
            theta=self.problem.theta.data_ptr(),
            stats=stats.data_ptr(),
            iterations=config.cg.iterations,
            tol=config.cg.tol,
            gain_tol=config.cg.gain_tol,
            factor_stride=self.stride(config.cg),
            max_kl=config.max_kl,
            ratio=config.backtrack_ratio,
            steps=config.backtrack_steps,
            search=config.search,
            limit_max=self.problem.constraint == "max",
            learning_rate=config.learning_rate or 0.0,
        )
        return stats

    def bad_values(self) -> Tensor:
        return self._gradient()[1][-1] != 0

    @property
    def scratch_bytes(self) -> int:
        return self._op.scratch_bytes(factor_stride=0)


@functools.cache
def device_support(device: torch.device) -> Support:
    """Whether the kernels of this build run on a device, where another one may be served."""
    native = connected()
    archs = native.build_info()["cuda_archs"]
    arch = native.cuda_limits(device_index(device))["arch"]
    if serves(archs, divmod(arch, 10)):
        return SERVES
    return Support(
        f"built for {archs}, which does not serve {device} (sm_{arch}); set TRPO_FAST_CUDA_ARCHS"
    )


def fused_precision(precision: str) -> Support:
    """Whether the fused kernels compute in one of the backend's precisions."""
    if precision in RESIDENT_PRECISIONS or precision not in wide.PRECISIONS:
        return SERVES
    return Support(f"precision={precision!r} is for layers wider than 128")


class CudaBackend(Backend):
    """Kernels for float32 ``MLPPolicy`` on a CUDA device: up to 128 wide, fused into one; wider
    ones in Triton.
    """

    name = "cuda"
    precisions = wide.PRECISIONS

    def machine_support(self) -> Support:
        """Whether any of them does; of what is missing the fused kernels' is told."""
        here = machine_support()
        if here or not torch.cuda.is_available():
            return here
        return SERVES if wide.machine_support(torch.device("cuda")) else here

    def support(self, problem: Problem) -> Support:
        if wide.is_wide(problem):
            return self.problem_support(problem)
        return (
            self.precision_support(problem.precision)
            and fused_precision(problem.precision)
            and machine_support()
            and self.problem_support(problem)
        )

    def problem_support(self, problem: Problem) -> Support:
        serves = wide.support if wide.is_wide(problem) else self._resident_support
        answer = serves(problem)
        if answer or "; " in answer.why_not:  # the sentence already says what to do
            return answer
        return Support(f"{answer.why_not}; use backend='reference'")

    def _resident_support(self, problem: Problem) -> Support:
        answer, policy = problem_support(problem, place()), problem.policy
        if answer and isinstance(policy, MLPPolicy) and not policy.head.on_cuda:
            name = type(policy.head).__name__
            answer = Support(f"its kernels have no formulas for the head {name}")
        if answer:
            try:
                with explained():
                    answer = self._shape_support(problem)
            except DeviceFault:
                raise
            except BackendUnavailable as error:  # the device does not say what it is
                answer = Support(str(error))
        return answer

    @staticmethod
    def _shape_support(problem: Problem) -> Support:
        if not extension.emulating():
            answer = device_support(problem.theta.device)
            if not answer:
                return answer
        plan = plan_of(problem)
        if plan.refusal:
            return Support(plan.refusal)
        assert isinstance(problem.policy, MLPPolicy)
        fitting = room(problem.policy.spec, plan, device_index(problem.theta.device))
        if fitting < plan.grid:
            return Support(f"its {plan.grid} blocks wait for each other, and {fitting} fit at once")
        return SERVES

    def records(self, problem: Problem) -> bool:
        """The fused kernels are one launch already."""
        return wide.is_wide(problem)

    def operator(self, problem: Problem) -> Operator:
        if wide.is_wide(problem):
            from .wide.operator import WideOperator  # imports Triton

            return WideOperator(problem, explained=explained)
        return CudaOperator(problem, atomics=not problem.deterministic)
