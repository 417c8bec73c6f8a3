"""Which backends there are, fastest first, and which one computes a problem."""

from __future__ import annotations

import functools
from collections.abc import Callable

from .._base import extension
from ..core.problem import Problem
from ..policy.net import MLPPolicy
from ..policy.wrappers import tell_once
from .autograd import AutogradBackend
from .base import Backend
from .cpu import CpuBackend
from .cuda import CudaBackend
from .fallback import OrReference
from .module_kernels import ModuleBackend
from .ranks import RankBackend
from .reference import ReferenceBackend
from .support import Support, choose


@functools.cache
def registry() -> dict[str, Backend]:
    """Every backend, fastest first; ``auto`` takes the first that serves."""
    every = (CpuBackend(), CudaBackend(), ReferenceBackend(), AutogradBackend())
    return {backend.name: backend for backend in every}


@functools.cache
def _supports() -> dict[str, Callable[[Problem], Support]]:
    return {name: backend.support for name, backend in registry().items()}


def backends() -> dict[str, str]:
    """Each backend's name and "ok", or the sentence that says why it is not available."""
    return {name: backend.machine_support().status for name, backend in registry().items()}


def resolve(name: str, problem: Problem) -> Backend:
    """The backend that will serve; an explicit name is never replaced by another, and the choice of
    "auto" only where the CUDA kernels fail, and by the CPU's where a module is a net. Of a problem
    of several ranks each chooses for its own rows.
    """
    if problem.share is not None:
        return RankBackend(name, functools.partial(resolve, name))
    chosen = choose(name, _supports(), problem, can="serve")
    if (name, chosen) == ("auto", "cuda"):
        return OrReference(registry()["cuda"], registry()["reference"])
    if (name, chosen) == ("auto", "reference") and ModuleBackend.tries(problem):
        return ModuleBackend()
    if name == "auto" and chosen not in ("cpu", "cuda"):
        _tell_of_pytorch(chosen, problem)
    return registry()[chosen]


def _tell_of_pytorch(chosen: str, problem: Problem) -> None:
    """Warn where "auto" runs plain PyTorch: once in a process that has no kernels; otherwise once
    for each policy and reason, if it is an MLPPolicy that the kernels would have served but for
    what was changed of it.
    """
    known, policy = registry(), problem.policy
    if extension.why_missing() and known["cpu"].problem_support(problem):
        extension.warn_of_pure_python()
    elif chosen == "reference" and isinstance(policy, MLPPolicy) and policy.departure():
        kernels = "cuda" if problem.theta.device.type == "cuda" else "cpu"
        tell_once(
            policy,
            f"policy: backend='reference', plain PyTorch, serves it; backend={kernels!r} cannot: "
            f"{known[kernels].support(problem).why_not}",
        )
