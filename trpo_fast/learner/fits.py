"""The two fits of a critic's net to normalised targets, and what computes them on the CPU
(fits_reference.py: plain PyTorch; fits_cuda.py: the kernels of a device).

    loss(theta) = sum_n w_n (v(s_n) - t_n)^2 / (2 sum_n w_n)

``adam`` takes minibatches of shuffled rows; ``gauss_newton`` takes damped steps on every row with
the curvature of a few. Both draw their permutations from torch's generator in the same order on
every path, so the paths differ by rounding only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypedDict

import torch
from torch import Tensor

from .._base import extension
from .._base.choices import Backend, PreconditionerKind
from .._base.reads import may_read
from .._base.rows import Rows, count_rows, map_rows, one_tensor, parts_of, with_parts
from .._base.threads import kernel_threads
from ..backends.native import native_shape, readable
from ..backends.support import Support, family_support
from ..policy.flat import flat_params, mark_written
from ..policy.net import MLPPolicy
from ..updates.operator import FisherOperator
from .actor_cpu import parameter_support
from .value_net import ValueNet

if TYPE_CHECKING:
    from .. import _C

BACKTRACKS = 10


@dataclass(frozen=True)
class Targets:
    """What a net is fitted to: rows of observations, [N, O] for layers, targets [N], weights [N]
    above zero or None.
    """

    obs: Rows
    values: Tensor
    weights: Tensor | None = None

    def rows(self, index: Tensor) -> Targets:
        weights = None if self.weights is None else self.weights[index]
        obs = map_rows(lambda part: part[index], self.obs)
        return Targets(obs, self.values[index], weights)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name."""
        found = {**dict(parts_of(self.obs, "obs")), "values": self.values}
        return found if self.weights is None else {**found, "weights": self.weights}

    def of(self, given: Mapping[str, Tensor]) -> Targets:
        """The same with other tensors."""
        parts = iter([given[name] for name, _ in parts_of(self.obs, "obs")])
        return Targets(with_parts(self.obs, parts), given["values"], given.get("weights"))


@dataclass(frozen=True)
class AdamState:
    """Adam's moments [P], written in place, and the steps taken before this fit: as the host counts
    them, and for fits on a device in its memory ([1] int64), where the fit adds its own. Beside
    them its constants.
    """

    first: Tensor
    second: Tensor
    steps: int
    taken: Tensor | None = None
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8


class Fit(Protocol):
    def loss(self) -> Tensor:
        """The loss on every row, 0-d."""
        ...

    def gradient(self) -> tuple[Tensor, Tensor]:
        """(loss, its gradient [P])."""
        ...

    def adam(self, state: AdamState, order: Tensor, minibatch: int, learning_rate: float) -> Tensor:
        """Step through the rows in ``order`` [epochs, N]; the mean loss over the last epoch."""
        ...


def fit_support(net: MLPPolicy, method: str) -> Support:
    """Whether the CPU core fits this net, by either method."""
    return family_support("critic") and parameter_support("critic", net, "cpu")


class _FitRows(TypedDict):
    """What the binding takes of a net and the rows it is fitted to."""

    net: _C.NetShape
    obs: int
    targets: int
    weights: int
    count: int


class NativeFit:
    """The kernels of the CPU core: float32 on the CPU."""

    def __init__(self, net: MLPPolicy, targets: Targets) -> None:
        self.net = net
        obs, values = readable(one_tensor(targets.obs)), readable(targets.values)
        weights = None if targets.weights is None else readable(targets.weights)
        self._kept = (obs, values, weights)  # the addresses below are theirs
        self._rows: _FitRows = {
            "net": native_shape(net.spec),
            "obs": obs.data_ptr(),
            "targets": values.data_ptr(),
            "weights": 0 if weights is None else weights.data_ptr(),
            "count": len(obs),
        }

    def loss(self) -> Tensor:
        return self._evaluate(None)

    def gradient(self) -> tuple[Tensor, Tensor]:
        g = torch.empty_like(flat_params(self.net))
        return self._evaluate(g), g

    def _evaluate(self, g: Tensor | None) -> Tensor:
        loss = extension.native.critic_loss(
            **self._rows,
            theta=flat_params(self.net).data_ptr(),
            gradient=0 if g is None else g.data_ptr(),
            threads=kernel_threads(),
        )
        return _loss(loss)

    def adam(self, state: AdamState, order: Tensor, minibatch: int, learning_rate: float) -> Tensor:
        loss = extension.native.critic_adam(
            **self._rows,
            theta=flat_params(self.net).data_ptr(),
            first=state.first.data_ptr(),
            second=state.second.data_ptr(),
            order=order.data_ptr(),
            epochs=len(order),
            minibatch=minibatch,
            steps=state.steps,
            learning_rate=learning_rate,
            beta1=state.beta1,
            beta2=state.beta2,
            eps=state.eps,
            threads=kernel_threads(),
        )
        return _loss(loss)


def _loss(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32, device="cpu")


def fit_adam(
    fit: Fit,
    state: AdamState,
    rows: Rows,
    *,
    epochs: int,
    minibatch: int,
    learning_rate: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Adam over ``epochs`` permutations of the rows; the last epoch's loss."""
    count, device = count_rows(rows), state.first.device
    draws = [torch.randperm(count, generator=generator, device=device) for _ in range(epochs)]
    return fit.adam(state, torch.stack(draws), minibatch, learning_rate)


def curvature_rows(
    targets: Tensor, steps: int, fraction: float, generator: torch.Generator | None
) -> list[Tensor]:
    """Rows for each step's curvature, drawn before the first: a fit that ends early leaves the
    generator where one on a device does, which cannot know that.
    """
    count, device = len(targets), targets.device
    chosen = max(1, round(fraction * count))
    return [
        torch.randperm(count, generator=generator, device=device)[:chosen] for _ in range(steps)
    ]


def fit_gauss_newton(
    fit: Fit,
    net: MLPPolicy | ValueNet,
    targets: Targets,
    parts: list[Tensor],
    *,
    cg_iterations: int,
    damping: float,
    preconditioner: PreconditionerKind | None,
    backend: Backend,
    capture: bool,
) -> tuple[Tensor, int | Tensor]:
    """theta <- theta - c (J'J / M + damping I)^-1 g, c halved until the loss on every row is lower.

    A step for each of ``parts``, the M rows [M] of all that J is taken on. Returns the loss and the
    steps taken; on a device nothing waits, and after a search that found nothing the remaining
    steps move nothing.
    """
    theta = flat_params(net)
    waits = may_read(theta.device)
    loss, g = fit.gradient()
    alive = torch.ones((), dtype=torch.bool, device=theta.device)
    taken = torch.zeros((), dtype=torch.int64, device=theta.device)
    for step, part in enumerate(parts):
        rows = targets.rows(part)
        fisher = FisherOperator(
            net,
            rows.obs,
            damping=damping,
            weights=rows.weights,
            backend=backend,
            capture=capture,
            sync=False,
        )
        direction = fisher.solve(g, iterations=cg_iterations, preconditioner=preconditioner).x
        alive = _lowered(fit, theta, direction, loss, alive)
        mark_written(net)
        if waits and not bool(alive):
            return loss, step
        taken = taken + alive
        loss, g = fit.gradient()
    return loss, len(parts) if waits else taken


def _lowered(fit: Fit, theta: Tensor, direction: Tensor, loss: Tensor, alive: Tensor) -> Tensor:
    """Move theta by the first of the halved steps that lowers the loss, if the fit is ``alive``;
    whether there was one.
    """
    start, best, found = theta.clone(), theta.clone(), ~alive
    for j in range(BACKTRACKS):
        candidate = start - 0.5**j * direction
        theta.copy_(candidate)
        lower = (fit.loss() < loss) & ~found
        best, found = torch.where(lower, candidate, best), found | lower
        if may_read(theta.device) and bool(found):
            break
    theta.copy_(best)
    return found & alive
