"""``backend="autograd"``: the mean KL differentiated twice, as other libraries do it. The graph of
its gradient is kept across CG iterations.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .._base.guards import outside_autocast
from ..core.batch import normalised_weights
from ..core.modules import ModuleFunction
from ..core.problem import Problem
from ..core.surrogate import Measures, surrogate
from .base import Backend
from .reference import ReferenceOperator
from .support import SERVES, Support


class AutogradOperator(ReferenceOperator):
    """Double backward through the mean KL; the graph of its gradient is built once and kept."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(replace(problem, batch=problem.batch.tracked()))
        self._function = self.module or ModuleFunction(problem.policy, self.batch)
        self._leaf: Tensor | None = None
        self._kl_gradient: Tensor | None = None

    @torch.enable_grad()
    def _graph(self) -> tuple[Tensor, Tensor]:
        if self._leaf is None or self._kl_gradient is None:
            batch = self._fisher_batch
            self._leaf = self.theta.detach().requires_grad_()
            head, params = self._function.on(batch)(self._leaf)
            weights = normalised_weights(batch, self._fisher_total)
            kl = self.problem.kl_scale * (weights * head.kl(params.detach(), params)).sum()
            (self._kl_gradient,) = torch.autograd.grad(kl, self._leaf, create_graph=True)
        return self._leaf, self._kl_gradient

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
        leaf = self.theta.detach().requires_grad_()
        head, params = self._function.on(self.batch)(leaf)
        value, _ = surrogate(head, self.batch, params.detach(), params, self.total)
        (g,) = torch.autograd.grad(value, leaf)
        old = params.detach()
        return g, self._evaluate_rows(head, self.batch, old, old)


class AutogradBackend(Backend):
    """The peers' way, for comparison and for modules torch.func cannot take."""

    name = "autograd"
    captures = True

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
