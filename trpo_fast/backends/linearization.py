"""A policy around one theta: what the reference's products are made of."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from .._base.rows import one_tensor
from ..core.batch import Batch
from ..core.preconditioner import Factors, net_factors
from ..core.reference import Activations, forward, jvp, metric, vjp
from ..policy.heads import Head
from ..policy.spec import NetSpec


class Linearization(Protocol):
    """A policy around one theta on some rows: its distribution parameters and their derivative."""

    head: Head
    params: Tensor  # [N, D]

    def jvp(self, v: Tensor) -> Tensor:
        """J v, [..., N, D]."""

    def metric(self, tangent: Tensor) -> Tensor:
        """M J v, [..., N, D]."""

    def vjp(self, delta: Tensor) -> Tensor:
        """J' delta summed over rows, [..., P]."""

    def factors(self, delta: Tensor, weights: Tensor) -> Factors:
        """What these rows add to K-FAC's factors: delta [N, D] is S xi, weights [N] normalised."""

    def nbytes(self) -> int:
        """Memory the linearization holds."""


class MLPLinearization:
    """The hand-written stages, with the activations cached."""

    def __init__(self, spec: NetSpec, head: Head, theta: Tensor, batch: Batch) -> None:
        self.spec, self.head, self.theta = spec, head, theta
        self.acts: Activations = forward(
            theta, spec, head, one_tensor(batch.obs), batch.action_mask
        )
        self.params = self.acts.params

    def jvp(self, v: Tensor) -> Tensor:
        return jvp(self.theta, self.spec, self.acts, v)

    def metric(self, tangent: Tensor) -> Tensor:
        return metric(self.head, self.acts, tangent)

    def vjp(self, delta: Tensor) -> Tensor:
        return vjp(self.theta, self.spec, self.acts, delta)

    def factors(self, delta: Tensor, weights: Tensor) -> Factors:
        return net_factors(self.theta, self.spec, self.acts, delta, weights)

    def nbytes(self) -> int:
        held = [*self.acts.inputs[1:], *self.acts.slopes, self.params]
        return sum(t.numel() * t.element_size() for t in held)
