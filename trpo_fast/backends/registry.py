"""Which backends there are, fastest first, and the one place that chooses among them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import get_args

from .._base import choices, extension
from .._base.arguments import check_choice
from ..core.problem import BackendUnavailable, Problem
from ..policy.net import MLPPolicy
from ..policy.wrappers import tell_once
from .autograd import AutogradBackend
from .base import Backend
from .cpu import CpuBackend
from .cuda import CudaBackend
from .reference import ReferenceBackend

NAMES: tuple[str, ...] = get_args(choices.Backend)  # "auto" among them


@functools.cache
def registry() -> dict[str, Backend]:
    """Every backend, fastest first; ``auto`` takes the first that serves."""
    every = (CpuBackend(), CudaBackend(), ReferenceBackend(), AutogradBackend())
    return {backend.name: backend for backend in every}


def backends() -> dict[str, str]:
    """Each backend's name and "ok", or the sentence that says why it is not available."""
    registered = {name: backend.unavailable() or "ok" for name, backend in registry().items()}
    return {**extension.availability(), **registered}


def resolve(name: str, problem: Problem) -> Backend:
    """The backend that will serve; an explicit name is never replaced by another."""
    known = registry()
    check_choice("backend", name, NAMES)
    if name != "auto":
        reason = _why_not(known[name], problem)
        if reason:
            raise BackendUnavailable(f"backend={name!r} cannot serve: {reason}")
        return known[name]
    reasons = {}
    for backend in known.values():
        reasons[backend.name] = _why_not(backend, problem)
        if reasons[backend.name] is None:
            if extension.why_missing() and known["cpu"].refuses(problem) is None:
                extension.warn_of_pure_python()
            else:
                _tell_of_reference(backend, problem, reasons)
            return backend
    why = "; ".join(f"{name} cannot: {reason}" for name, reason in reasons.items())
    raise BackendUnavailable(f"backend: expected one that can serve, got none: {why}")


def _tell_of_reference(
    chosen: Backend, problem: Problem, reasons: Mapping[str, str | None]
) -> None:
    """Warn once for each policy and reason where "auto" runs plain PyTorch for an MLPPolicy."""
    if chosen.name != "reference" or not isinstance(problem.policy, MLPPolicy):
        return
    kernels = "cuda" if problem.theta.device.type == "cuda" else "cpu"
    tell_once(
        problem.policy,
        f"policy: backend='reference', plain PyTorch, serves it; backend={kernels!r} cannot: "
        f"{reasons[kernels]}",
    )


def _why_not(backend: Backend, problem: Problem) -> str | None:
    return (
        backend.refuses_precision(problem.precision)
        or backend.unavailable()
        or backend.refuses(problem)
    )
