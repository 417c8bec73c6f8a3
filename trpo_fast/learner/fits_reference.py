"""The critic's fits in plain PyTorch: any device, float32 or float64. On CUDA an epoch of Adam is
recorded and replayed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .._base.rows import parts_of, with_parts
from ..backends.captured import perform, records
from ..backends.work import Work
from ..policy.flat import flat_params
from ..policy.net import MLPPolicy
from .fits import AdamState, Targets
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
        obs = dict(parts_of(targets.obs, "obs"))
        rate = torch.full((), learning_rate, dtype=torch.float64, device=theta.device)
        inputs = {"rows": rows, "values": targets.values, "taken": count, "rate": rate, **obs}
        if targets.weights is not None:
            inputs["weights"] = targets.weights

        def run(given: Mapping[str, Tensor]) -> Tensor:
            parts = with_parts(targets.obs, iter([given[name] for name in obs]))
            held = Targets(parts, given["values"], given.get("weights"))
            now = given["rate"], given["taken"]
            return self._steps(held, state, given["rows"], minibatch, *now)

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
            adam_step(flat_params(self.net), state, g, learning_rate, taken + step)
            losses.append(loss)
            counted = part.values.new_full((), len(index))
            weights.append(counted if part.weights is None else part.weights.sum())
        mass = torch.stack(weights)
        return (torch.stack(losses) * mass).sum() / mass.sum()


def adam_step(
    theta: Tensor, state: AdamState, g: Tensor, learning_rate: float | Tensor, t: int | Tensor
) -> None:
    """Step t of Adam; it and the rate are the host's numbers or in a device's memory."""
    beta1, beta2 = state.beta1, state.beta2
    state.first.lerp_(g, 1.0 - beta1)
    state.second.mul_(beta2).addcmul_(g, g, value=1.0 - beta2)
    scale = (state.second / (1.0 - beta2**t)).sqrt_().add_(state.eps)
    rate = learning_rate / (1.0 - beta1**t)
    if isinstance(rate, Tensor):
        theta.sub_(rate * (state.first / scale))
    else:
        theta.addcdiv_(state.first, scale, value=-rate)
