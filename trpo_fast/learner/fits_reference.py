"""The critic's fits in plain PyTorch: any device, float32 or float64. On CUDA an epoch of Adam is
recorded and replayed, and so is a whole fit by Gauss-Newton.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from ..backends.captured import perform, records
from ..backends.work import Work
from ..policy.flat import flat_params
from ..policy.net import MLPPolicy
from .fits import AdamState, Targets, fit_gauss_newton
from .value_net import ValueNet, moved, values_of

MOST_STEPS = 256  # of an epoch that is recorded: a graph has some forty nodes for each


class ReferenceFit:
    """Losses, gradients and Adam by autograd; with ``capture``, recorded where the device can."""

    def __init__(
        self, net: MLPPolicy | ValueNet, targets: Targets, *, capture: bool = False
    ) -> None:
        self.net, self.targets, self._capture = net, targets, capture

    def _loss(self, targets: Targets) -> Tensor:
        squares = (values_of(self.net, targets.obs) - targets.values).square()
        if targets.weights is None:
            return 0.5 * squares.mean()
        return 0.5 * (targets.weights * squares).sum() / targets.weights.sum()

    def _gradient(self, targets: Targets) -> tuple[Tensor, Tensor]:
        loss = self._loss(targets)
        parts = torch.autograd.grad(
            loss, moved(self.net), allow_unused=True, materialize_grads=True
        )
        flat = torch.cat([part.reshape(-1) for part in parts])
        # The unit variance of the head is a parameter too; nothing moves it.
        fixed = flat.new_zeros(flat_params(self.net).numel() - flat.numel())
        return loss.detach(), torch.cat((flat, fixed))

    @torch.no_grad()
    def loss(self) -> Tensor:
        return self._loss(self.targets)

    def gradient(self) -> tuple[Tensor, Tensor]:
        return self._gradient(self.targets)

    def gauss_newton(
        self, parts: list[Tensor], *, capture: bool, **options: Any
    ) -> tuple[Tensor, int | Tensor]:
        """``fit_gauss_newton`` with its options, as one replay where there is one."""
        theta, targets = flat_params(self.net), self.targets

        def fitted(held: Targets, rows: list[Tensor], capture: bool) -> Any:
            fit = ReferenceFit(self.net, held)
            return fit_gauss_newton(fit, self.net, held, rows, capture=capture, **options)

        if not (capture and records(theta.device)):
            return cast("tuple[Tensor, int | Tensor]", fitted(targets, parts, capture))
        chosen = {f"part {i}": part for i, part in enumerate(parts)}

        def run(given: Mapping[str, Tensor]) -> Any:
            return fitted(targets.of(given), [given[name] for name in chosen], True)

        inputs = {**targets.tensors(), **chosen}
        name, settings = "Critic.fit by Gauss-Newton", tuple(sorted(options.items()))
        work = Work(self.net, name, settings, inputs, (theta,), run)
        found: tuple[Tensor, int | Tensor] = perform(work, capture=True).results
        return found

    def adam(self, state: AdamState, order: Tensor, minibatch: int, learning_rate: float) -> Tensor:
        taken, each = state.steps, -(-order.shape[1] // minibatch)
        losses = []
        for epoch in order:
            losses.append(self._epoch(state, epoch, minibatch, learning_rate, taken))
            taken += each
        if state.taken is not None:
            state.taken.add_(taken - state.steps)
        return losses[-1]

    def _epoch(
        self, state: AdamState, rows: Tensor, minibatch: int, learning_rate: float, taken: int
    ) -> Tensor:
        """One pass through ``rows`` [N], ``taken`` steps after the first; its mean loss."""
        theta, targets = flat_params(self.net), self.targets
        few = len(rows) <= MOST_STEPS * minibatch
        if not (self._capture and few and records(theta.device)):
            return self._steps(targets, state, rows, minibatch, learning_rate, taken)
        count = torch.full((), taken, dtype=torch.float64, device=theta.device)
        rate = torch.full((), learning_rate, dtype=torch.float64, device=theta.device)
        inputs = {"rows": rows, "taken": count, "rate": rate, **targets.tensors()}

        def run(given: Mapping[str, Tensor]) -> Tensor:
            now = given["rate"], given["taken"]
            return self._steps(targets.of(given), state, given["rows"], minibatch, *now)

        options = (minibatch, state.beta1, state.beta2, state.eps)
        written = (theta, state.first, state.second)
        work = Work(self.net, "Critic.fit", options, inputs, written, run)
        loss: Tensor = perform(work, capture=True).results
        return loss

    def _steps(
        self,
        targets: Targets,
        state: AdamState,
        rows: Tensor,
        minibatch: int,
        learning_rate: float | Tensor,
        taken: int | Tensor,
    ) -> Tensor:
        losses, weights = [], []
        for step, index in enumerate(rows.split(minibatch), start=1):
            part = targets.rows(index)
            loss, g = self._gradient(part)
            self._step(state, g, learning_rate, taken + step)
            losses.append(loss)
            counted = part.values.new_full((), len(index))
            weights.append(counted if part.weights is None else part.weights.sum())
        mass = torch.stack(weights)
        return (torch.stack(losses) * mass).sum() / mass.sum()

    def _step(
        self, state: AdamState, g: Tensor, learning_rate: float | Tensor, t: int | Tensor
    ) -> None:
        """Step t of Adam; it and the rate are the host's numbers or in a device's memory."""
        theta, beta1, beta2 = flat_params(self.net), state.beta1, state.beta2
        state.first.lerp_(g, 1.0 - beta1)
        state.second.mul_(beta2).addcmul_(g, g, value=1.0 - beta2)
        scale = (state.second / (1.0 - beta2**t)).sqrt_().add_(state.eps)
        rate = learning_rate / (1.0 - beta1**t)
        if isinstance(rate, Tensor):
            theta.sub_(rate * (state.first / scale))
        else:
            theta.addcdiv_(state.first, scale, value=-rate)
