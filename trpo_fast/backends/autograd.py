"""``backend="autograd"``: the mean KL differentiated twice, as other libraries do it. The graph of
its gradient is kept across CG iterations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from .._base.guards import outside_autocast
from ..core.batch import Batch, normalised_weights
from ..core.modules import ModuleFunction, Run
from ..core.problem import Problem
from ..core.surrogate import Measures, surrogate
from .base import Backend
from .linearization import Linearization
from .module import ModuleLinearization
from .reference import ReferenceOperator
from .support import SERVES, Support


class AutogradOperator(ReferenceOperator):
    """Double backward through the mean KL; the graph of its gradient is built once and kept."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(replace(problem, batch=problem.batch.tracked()))
        self._function = self.module or ModuleFunction(problem.policy, self.batch)
        self._kl_run: tuple[Tensor, Tensor] | None = None  # theta, and the gradient of the KL there

    def _run(self, pieces: Iterator[tuple[Batch, Linearization]]) -> Run:
        """The run of all the rows of a piece."""
        batch, lin = next(pieces)
        if isinstance(lin, ModuleLinearization):
            return lin.run
        return self._function.run(self.theta, batch)

    @torch.enable_grad()
    def _graph(self) -> tuple[Tensor, Tensor]:
        if self._kl_run is None:
            head, params, leaf = self._run(self._fisher_chunks())
            weights = normalised_weights(self._fisher_batch, self._fisher_total)
            kl = self.problem.kl_scale * (weights * head.kl(params.detach(), params)).sum()
            (slope,) = torch.autograd.grad(kl, leaf, create_graph=True)
            self._kl_run = leaf, slope
        return self._kl_run

    @outside_autocast
    @torch.enable_grad()
    def fvp(self, v: Tensor) -> Tensor:
        if v.ndim > 1:
            return torch.stack([self.fvp(column) for column in v])
        leaf, kl_gradient = self._graph()
        (product,) = torch.autograd.grad(kl_gradient @ v, leaf, retain_graph=True)
        return product + self.problem.damping * v

    @outside_autocast
    @torch.enable_grad()
    def gradient(self) -> tuple[Tensor, Measures]:
        head, params, leaf = self._run(self._chunks())
        old = params.detach()
        value, _ = surrogate(head, self.batch, old, params, self.total)
        (g,) = torch.autograd.grad(value, leaf, retain_graph=True)
        return g, self._evaluate_rows(head, self.batch, old, old)


class AutogradBackend(Backend):
    """The peers' way, for comparison and for modules torch.func cannot take."""

    name = "autograd"

    def records(self, problem: Problem) -> bool:
        return True

    def problem_support(self, problem: Problem) -> Support:
        if problem.fisher != "analytic":
            return Support("fisher='empirical' exists in backend='reference' only")
        if torch.is_inference_mode_enabled():
            return Support(
                "it differentiates, which torch.inference_mode() forbids; leave that block"
            )
        if problem.chunk_rows is not None:
            return Support("chunk_rows needs a forward per chunk; use backend='reference'")
        return SERVES

    def operator(self, problem: Problem) -> AutogradOperator:
        return AutogradOperator(problem)
