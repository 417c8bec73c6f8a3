"""What a suite is: how to make a call of ours and of an opponent, and what it must return."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from ..backends.registry import registry
from . import harness
from .cases import Case, Workload

T = TypeVar("T")


@dataclass
class Timed:
    """A call to time and the tensor it computes; ``exact`` where that is not the suite's; ``loss``
    (mean and standard error) where it fits something; ``products`` where they are not as many as
    were asked for.
    """

    call: Callable[[], Any]
    result: Callable[[], Tensor]
    reset: Callable[[], None] | None = None
    exact: Callable[[Tensor], Tensor] | None = None
    loss: dict[str, float] | None = None
    products: int | None = None


PRECONDITIONED = "+kfac"  # after a backend's name, where its CG has K-FAC's factors


def solver_of(name: str) -> tuple[str, Literal["kfac"] | None]:
    """The backend that a contender's name begins with, and its preconditioner."""
    return name.removesuffix(PRECONDITIONED), "kfac" if name.endswith(PRECONDITIONED) else None


# The CUDA kernels once more: one CUDA graph of the whole call, replayed, as a training loop has it
# that records its update, and as the fastest opponents are timed.
GRAPH = "cuda_graph"


def every_backend() -> list[tuple[str, str]]:
    """(name, precision) of every backend, whether it can serve or not, and of GRAPH."""
    found = [(b.name, precision) for b in registry().values() for precision in b.precisions]
    return found + [(GRAPH, precision) for precision in registry()["cuda"].precisions]


def kernels_of(contender: str) -> str:
    """The backend of a contender of ours."""
    return "cuda" if contender == GRAPH else contender


def as_timed(contender: str, call: Callable[[], T], *drawn: torch.Generator) -> Callable[[], T]:
    """The call itself, or for GRAPH its replay, generators being those that it draws from."""
    return harness.captured(call, *drawn) if contender == GRAPH else call


def plain_and_preconditioned() -> list[tuple[str, str]]:
    """As ``every_backend``, each a second time with K-FAC's factors."""
    return [
        (name + kind, precision)
        for name, precision in every_backend()
        for kind in ("", PRECONDITIONED)
    ]


@dataclass(frozen=True)
class Suite:
    """``own`` and ``opponent`` make a call from a workload; ``exact`` is its result in float64;
    ``gain``, where results are steps, makes of a workload what judges them.
    """

    name: str
    own: Callable[[Workload, str, str, int], Timed]
    opponents: Mapping[str, Any]
    opponent: Callable[[str, Workload, str, int], Timed]
    flops: Callable[[Case, int, int], int]
    contenders: Callable[[], Sequence[tuple[str, str]]] = every_backend
    rows: int | None = None  # of every case, where the suite is not about a whole batch
    gain: Callable[[Workload], Callable[[Tensor], float]] | None = None
    recorded_only: bool = False  # whether it is about batches from training

    def exact(self, workload: Workload, iterations: int) -> Tensor:
        """The result in float64, by the reference."""
        return self.own(workload.double(), "reference", "fp32", iterations).result()

    def error(self, timed: Timed, exact: Callable[[], Tensor]) -> float:
        """Relative error of what a call computes; ``exact`` gives the suite's result in
        float64.
        """
        result = timed.result()
        return relative_error(result, timed.exact(result) if timed.exact else exact())


def relative_error(result: Tensor, exact: Tensor) -> float:
    error = (result.detach().double().to(exact.device) - exact).norm() / exact.norm()
    return float(error) if math.isfinite(float(error)) else math.inf
