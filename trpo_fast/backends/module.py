"""The reference's Gauss-Newton stages for any module that returns a distribution.

The module is run once and the graph that autograd keeps of it serves every product. J' u is one
pass back. J v is the derivative of J' u in u, along v: J' u is made once, with its graph, and a
pass back through that graph costs what a pass forward does, without running the module again.
Where torch cannot differentiate an operator twice its forward derivative is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._base.arguments import fail
from .._base.guards import uninterrupted
from .._base.rows import parts_of
from ..core.batch import Batch
from ..core.graph import nodes, saved_bytes
from ..core.modules import ModuleFunction, Refused
from ..core.preconditioner import Factors


class ModuleLinearization:
    """A module's distribution parameters around theta, and products with their Jacobian."""

    def __init__(self, function: ModuleFunction, theta: Tensor, batch: Batch) -> None:
        self._module, self._batch, self.theta = function, batch, theta
        self.run = function.run(theta, batch)
        self.head, self.params = self.run.head, self.run.params.detach()
        self._transposed: tuple[Tensor, Tensor] | None = None
        self._twice: RuntimeError | None = None  # why torch cannot differentiate the run twice

    @torch.inference_mode(False)
    def jvp(self, v: Tensor) -> Tensor:
        if v.ndim > 1:
            return torch.stack([self.jvp(column) for column in v])
        if not self.run.params.requires_grad:
            return torch.zeros_like(self.params)
        if self._twice is None:
            try:
                return self._through_transposed(v)
            except (torch.OutOfMemoryError, torch.AcceleratorError):
                raise
            except RuntimeError as error:
                self._twice, self._transposed = error, None
        return self._forward_mode(v)

    def _through_transposed(self, v: Tensor) -> Tensor:
        if self._transposed is None:
            self._transposed = self._transpose()
        pulled, delta = self._transposed
        (tangent,) = torch.autograd.grad(pulled, delta, v, retain_graph=True)
        return tangent

    @torch.enable_grad()
    def _transpose(self) -> tuple[Tensor, Tensor]:
        """J' u, with its graph, and u: the derivative of the one in the other is J."""
        delta = torch.zeros_like(self.params, requires_grad=True)
        (pulled,) = torch.autograd.grad(self.run.params, self.run.theta, delta, create_graph=True)
        if any(node.name().endswith("::Error") for node in nodes(pulled)):  # behind it lies nothing
            raise RuntimeError("one of them is marked as once_differentiable")
        return pulled, delta

    @uninterrupted
    def _forward_mode(self, v: Tensor) -> Tensor:
        function = self._module.on(self._batch.tracked())
        try:
            tangent: Tensor = torch.func.jvp(lambda t: function(t)[1], (self.theta,), (v,))[1]
            return tangent
        except (NotImplementedError, Refused) as error:
            raise fail(
                "policy",
                "operators that torch can differentiate twice (attention is one within "
                "torch.nn.attention.sdpa_kernel(SDPBackend.MATH))",
                f"others: {self._twice}",
            ) from error

    def metric(self, tangent: Tensor) -> Tensor:
        return self.head.metric(self.params, tangent)

    @torch.inference_mode(False)
    def vjp(self, delta: Tensor) -> Tensor:
        if delta.ndim > 2:
            return torch.stack([self.vjp(rows) for rows in delta])
        if not self.run.params.requires_grad:
            return torch.zeros_like(self.theta)
        (pulled,) = torch.autograd.grad(self.run.params, self.run.theta, delta, retain_graph=True)
        return pulled

    def factors(self, delta: Tensor, weights: Tensor) -> Factors:
        return self._module.factors(self.theta, self._batch, delta, weights)

    def nbytes(self) -> int:
        results = [self.run.params]
        if self._transposed is not None:
            results.append(self._transposed[0])
        given = [*(part for _, part in parts_of(self._batch.obs)), self.theta]
        return saved_bytes(results, given) + self.params.nbytes
