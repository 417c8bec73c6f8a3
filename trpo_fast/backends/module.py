"""The reference's Gauss-Newton stages for any module that returns a distribution, by torch.func."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._base.arguments import fail
from .._base.guards import uninterrupted
from ..core.batch import Batch
from ..core.modules import ModuleFunction
from ..core.preconditioner import Factors


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

    def factors(self, delta: Tensor, weights: Tensor) -> Factors:
        return self._module.factors(self.theta, self._batch, delta, weights)

    def nbytes(self) -> int:
        return self.params.numel() * self.params.element_size()
