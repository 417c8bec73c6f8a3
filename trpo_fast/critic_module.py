"""The critic in plain PyTorch, on any device: a net for normalised returns, fitted by Adam or by
Gauss-Newton.

    V(s) = mean + std v_theta(s),     loss(theta) = 1/2 mean_n (v_theta(s_n) - (R_n - mean) / std)^2

mean and std follow the targets; when they move, the last layer is rescaled so that V does not. The
net is a Gaussian policy of unit variance, so its Gauss-Newton matrix is that policy's Fisher matrix
and the policy's kernels solve it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .fisher import FisherOperator
from .heads import Gaussian
from .policy import MLPPolicy, flat_params, mark_written

METHODS = ("adam", "gauss_newton")
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
RATE = 0.1  # of the running target statistics, per fit
BACKTRACKS = 10


class ModuleCritic:
    """``values`` predicts returns, ``fit`` moves the net towards a batch of them."""

    def __init__(
        self,
        obs_dim: int,
        hidden: tuple[int, ...] = (64, 64),
        activation: str = "tanh",
        *,
        method: str = "adam",
        learning_rate: float = 4e-3,
        epochs: int = 10,
        minibatch: int = 1024,
        steps: int = 3,
        cg_iterations: int = 10,
        damping: float = 0.01,
        fraction: float = 0.2,
        backend: str = "auto",
        device: torch.device | str | None = None,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"critic: expected one of {METHODS}, got {method!r}")
        self.method, self.backend = method, backend
        self.learning_rate, self.epochs, self.minibatch = learning_rate, epochs, minibatch
        self.steps, self.cg_iterations = steps, cg_iterations
        self.damping, self.fraction = damping, fraction
        self.net = MLPPolicy(
            obs_dim, Gaussian(1), hidden, activation, output_gain=1.0, device=device
        )
        self.theta = flat_params(self.net)
        self.moments = torch.zeros(2, self.theta.numel(), device=self.theta.device)
        self.adam_steps = 0
        self.mean = torch.zeros((), device=self.theta.device)
        self.std = torch.ones((), device=self.theta.device)
        self.fits = 0

    @torch.no_grad()
    def values(self, obs: Tensor) -> Tensor:
        """Predicted returns [N]."""
        return torch.addcmul(self.mean, self.net.net(obs)[:, 0], self.std)

    def fit(
        self, obs: Tensor, returns: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Move towards returns [N]; the loss afterwards, in normalised units, as a 0-d tensor."""
        self._renormalise(returns)
        targets = (returns - self.mean) / self.std
        fit = self._fit_adam if self.method == "adam" else self._fit_gauss_newton
        loss = fit(obs, targets, generator)
        mark_written(self.net)
        return loss

    @torch.no_grad()
    def _renormalise(self, returns: Tensor) -> None:
        """Let mean and std follow the targets, and rescale the output so that V(s) stays as it
        was.
        """
        rate = RATE if self.fits else 1.0
        mean = torch.lerp(self.mean, returns.mean(), rate)
        std = torch.lerp(self.std, returns.std(unbiased=False).clamp_min(1e-4), rate)
        last: Any = self.net.net[-1]
        if self.fits:
            last.weight.mul_(self.std / std)
            last.bias.mul_(self.std / std).add_((self.mean - mean) / std)
        self.mean, self.std = mean, std
        self.fits += 1

    def _loss(self, obs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (self.net.net(obs)[:, 0] - targets).square().mean()

    def _gradient(self, obs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its gradient [P]; the free log_std of the unit-variance head has none."""
        parameters = list(self.net.net.parameters())
        loss = self._loss(obs, targets)
        parts = torch.autograd.grad(loss, parameters)
        flat = torch.cat([part.reshape(-1) for part in parts])
        return loss.detach(), torch.cat((flat, flat.new_zeros(self.theta.numel() - flat.numel())))

    def _fit_adam(self, obs: Tensor, targets: Tensor, generator: torch.Generator | None) -> Tensor:
        first, second = self.moments
        loss = targets.new_zeros(())
        for _ in range(self.epochs):
            order = torch.randperm(len(obs), generator=generator, device=obs.device)
            for rows in order.split(self.minibatch):
                loss, g = self._gradient(obs[rows], targets[rows])
                self.adam_steps += 1
                first.lerp_(g, 1.0 - BETA1)
                second.mul_(BETA2).addcmul_(g, g, value=1.0 - BETA2)
                scale = (second / (1.0 - BETA2**self.adam_steps)).sqrt_().add_(EPS)
                rate = self.learning_rate / (1.0 - BETA1**self.adam_steps)
                self.theta.addcdiv_(first, scale, value=-rate)
        return loss

    def _fit_gauss_newton(
        self, obs: Tensor, targets: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """theta <- theta - c (J'J / N + damping I)^-1 g, c halved until the loss on every row
        is lower.
        """
        rows = max(1, round(self.fraction * len(obs)))
        loss, g = self._gradient(obs, targets)
        for _ in range(self.steps):
            part = torch.randperm(len(obs), generator=generator, device=obs.device)[:rows]
            fisher = FisherOperator(self.net, obs[part], damping=self.damping, backend=self.backend)
            direction = fisher.solve(g, iterations=self.cg_iterations).x
            start = self.theta.clone()
            for j in range(BACKTRACKS):
                self.theta.copy_(start - 0.5**j * direction)
                with torch.no_grad():
                    reached = self._loss(obs, targets)
                if bool(reached < loss):
                    break
            else:
                self.theta.copy_(start)
                break
            mark_written(self.net)
            loss, g = self._gradient(obs, targets)
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {
            "net": dict(self.net.state_dict()),
            "moments": self.moments,
            "adam_steps": self.adam_steps,
            "mean": self.mean,
            "std": self.std,
            "fits": self.fits,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.theta.device
        self.net.load_state_dict(state["net"])
        if state["moments"].shape != self.moments.shape:
            raise ValueError(
                f"state: expected moments of shape {list(self.moments.shape)}, "
                f"got {list(state['moments'].shape)}"
            )
        self.moments = state["moments"].to(device, copy=True)
        self.mean, self.std = state["mean"].to(device), state["std"].to(device)
        self.adam_steps, self.fits = state["adam_steps"], state["fits"]
