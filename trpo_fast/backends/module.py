"""Any module that returns a distribution, and ``backend="autograd"``: the double backward that
other libraries use.

``ModuleLinearization`` gives the reference backend its Gauss-Newton stages for a custom module
through torch.func. ``AutogradOperator`` differentiates the mean KL twice, keeping the graph of its
gradient across CG iterations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .._base.arguments import fail
from .._base.guards import outside_autocast, uninterrupted
from ..core.modules import ModuleFunction
from ..core.problem import Backend, Problem
from ..core.surrogate import Batch, Evaluation, normalised_weights, surrogate
from .reference import ReferenceOperator


class ModuleLinearization:
    """torch.func's jvp and vjp of a module's distribution parameters."""

    def __init__(self, function: ModuleFunction, theta: Tensor, batch: Batch) -> None:
        self._module, self._function = function, function.on(batch)
        self.theta = theta
        with torch.no_grad():
            self.head, self.params = self._function(theta)
        self._batch = batch
        self._pullback: Callable[[Tensor], tuple[Tensor, ...]] | None = None
        self._transposed: tuple[Tensor, Tensor] | None = None

    def _params(self, theta: Tensor) -> Tensor:
        return self._function(theta)[1]

    @uninterrupted
    def jvp(self, v: Tensor) -> Tensor:
        if v.ndim > 1:
            return torch.stack([self.jvp(column) for column in v])
        if self._transposed is None:
            try:
                tangent: Tensor = torch.func.jvp(self._params, (self.theta,), (v,))[1]
                return tangent
            except NotImplementedError:  # torch has no forward derivative of one of the operators
                self._transposed = self._transpose()
        pulled, delta = self._transposed
        try:
            (tangent,) = torch.autograd.grad(pulled, delta, v, retain_graph=True)
        except RuntimeError as error:
            if "is not implemented" not in str(error):
                raise
            raise fail(
                "policy",
                "operators that torch can differentiate twice (attention is one within "
                "torch.nn.attention.sdpa_kernel(SDPBackend.MATH))",
                f"others: {error}",
            ) from error
        return tangent

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _transpose(self) -> tuple[Tensor, Tensor]:
        """J' u, with its graph, and u: the derivative of the one in the other is J."""
        theta = self.theta.clone().requires_grad_()
        params = self._module.on(self._batch.tracked())(theta)[1]
        delta = torch.zeros_like(params, requires_grad=True)
        (pulled,) = torch.autograd.grad(params, theta, delta, create_graph=True)
        return pulled, delta

    def metric(self, tangent: Tensor) -> Tensor:
        return self.head.metric(self.params, tangent)

    @uninterrupted
    def vjp(self, delta: Tensor) -> Tensor:
        if delta.ndim > 2:
            return torch.stack([self.vjp(rows) for rows in delta])
        if self._pullback is None:
            self._pullback = torch.func.vjp(self._params, self.theta)[1]
        return self._pullback(delta)[0].detach()

    def nbytes(self) -> int:
        return self.params.numel() * self.params.element_size()


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
    def gradient(self) -> tuple[Tensor, Evaluation]:
        leaf = self.theta.detach().requires_grad_()
        head, params = self._function.on(self.batch)(leaf)
        value, _ = surrogate(head, self.batch, params.detach(), params, self.total)
        (g,) = torch.autograd.grad(value, leaf)
        old = params.detach()
        return g, self._evaluate_rows(head, self.batch, old, old)


class AutogradBackend(Backend):
    """The peers' way, for comparison and for modules torch.func cannot take."""

    name = "autograd"

    def refuses(self, problem: Problem) -> str | None:
        if problem.fisher != "analytic":
            return "fisher='empirical' exists in backend='reference' only"
        if torch.is_inference_mode_enabled():
            return "it differentiates, which torch.inference_mode() forbids; leave that block"
        if problem.chunk_rows is not None:
            return "chunk_rows needs a forward per chunk; use backend='reference'"
        return None

    def operator(self, problem: Problem) -> AutogradOperator:
        return AutogradOperator(problem)
