"""A launch that fails where "auto" took the CUDA kernels: plain PyTorch goes on, and one warning
says so. A backend that was named raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..core.cg import CgResult
from ..core.operator import Operator
from ..core.problem import BackendUnavailable, CgConfig, Problem, UpdateConfig
from ..core.surrogate import Measures
from ..policy.wrappers import tell_once
from .base import Backend
from .cuda_launch import DeviceFault, capturing
from .support import Support

T = TypeVar("T")


def or_reference(asked: str, chosen: str, call: Callable[[str], T], owner: Any, at: Tensor) -> T:
    """``call(chosen)``; where "auto" chose the kernels, whose launch fails, ``call("reference")``.

    ``owner`` is warned about once, ``at`` is a tensor on the device.
    """
    try:
        return call(chosen)
    except BackendUnavailable as failure:
        if (asked, chosen) != ("auto", "cuda"):
            raise
        _tell(failure, owner, at.device)
        return call("reference")


def _tell(failure: BackendUnavailable, owner: Any, device: torch.device) -> None:
    """Warn, or raise what nothing can go on after: a fault of the device, a graph half captured."""
    if isinstance(failure, DeviceFault) or capturing(device):
        raise failure
    words = f"backend='auto' goes on with 'reference', plain PyTorch: {failure}"
    tell_once(owner, words, about="a launch that failed")


class OrReference(Backend):
    """The CUDA kernels for one problem, or the reference once a launch of theirs has failed."""

    def __init__(self, kernels: Backend, reference: Backend) -> None:
        self._kernels, self._reference = kernels, reference
        self.name = kernels.name
        self.precisions = kernels.precisions

    def problem_support(self, problem: Problem) -> Support:
        return self._kernels.problem_support(problem)

    def records(self, problem: Problem) -> bool:
        return self._kernels.records(problem)

    def operator(self, problem: Problem) -> Operator:
        try:
            return _Replaceable(self, self._kernels.operator(problem))
        except BackendUnavailable as failure:
            return self.replacement(problem, failure)

    def replacement(self, problem: Problem, failure: BackendUnavailable) -> Operator:
        """The reference's operator, if it can go on."""
        if not self._reference.support(problem):  # such as a precision of the kernels alone
            raise failure
        _tell(failure, problem.policy, problem.theta.device)
        self.name = self._reference.name
        return self._reference.operator(problem)


class _Replaceable(Operator):
    """An operator whose place another one takes when it fails."""

    def __init__(self, backend: OrReference, operator: Operator) -> None:
        self.problem, self.theta = operator.problem, operator.theta
        self._backend, self._operator = backend, operator

    def _run(self, call: Callable[[Operator], T]) -> T:
        try:
            return call(self._operator)
        except BackendUnavailable as failure:
            self._operator = self._backend.replacement(self.problem, failure)
            return call(self._operator)

    def fvp(self, v: Tensor) -> Tensor:
        return self._run(lambda operator: operator.fvp(v))

    def gradient(self) -> tuple[Tensor, Measures]:
        return self._run(lambda operator: operator.gradient())

    def evaluate(self, theta: Tensor) -> Measures:
        return self._run(lambda operator: operator.evaluate(theta))

    def bad_values(self) -> Tensor:
        return self._run(lambda operator: operator.bad_values())

    def solve(self, g: Tensor, config: CgConfig) -> CgResult:
        return self._run(lambda operator: operator.solve(g, config))

    def update(self, config: UpdateConfig) -> Tensor:
        return self._run(lambda operator: operator.update(config))

    @property
    def scratch_bytes(self) -> int:
        return self._operator.scratch_bytes
