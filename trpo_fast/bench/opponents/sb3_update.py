"""One policy update as sb3-contrib does it: the policy part of TRPO.train(), from the rollout
buffer to the new parameters, by its own code or by a replica of it.

Both keep sb3's conventions: KL(new || old) averaged over rows and action dimensions, strict
inequalities in the line search, CG from a small random vector.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .base import Setup, flat
from .sb3 import Sb3, Sb3Replica, make_policy


@dataclass(frozen=True)
class UpdateSetup:
    """Rows of one update beside the policy's tensors."""

    solve: Setup
    actions: Tensor  # [N, A] or [N]
    advantages: Tensor  # [N], normalised
    log_probs: Tensor  # [N]
    max_kl: float
    iterations: int


class UpdateOpponent:
    """``reset`` puts the starting parameters back and is not timed; ``theta`` reads the result."""

    name = ""
    support = staticmethod(Sb3Replica.support)
    precisions = staticmethod(Sb3Replica.precisions)

    def __init__(self, setup: UpdateSetup, precision: str) -> None:
        self.setup = setup

    def reset(self) -> None:
        raise NotImplementedError

    def update(self) -> None:
        raise NotImplementedError

    def theta(self) -> Tensor:
        """Parameters [P] in the order of ``Setup.params``."""
        raise NotImplementedError


class Sb3Update(UpdateOpponent):
    """The installed sb3_contrib: TRPO.train() without critic updates."""

    name = "sb3"
    support = staticmethod(Sb3.support)

    def __init__(self, setup: UpdateSetup, precision: str) -> None:
        super().__init__(setup, precision)
        policy, self.actor = make_policy(setup.solve)
        rows = setup.solve.obs.shape[0]
        self.trpo = _trpo(policy, rows, setup)
        self.trpo.policy = policy

    def reset(self) -> None:
        with torch.no_grad():
            for mine, given in zip(self.actor, self.setup.solve.params, strict=True):
                mine.copy_(given)
        _fill(self.trpo.rollout_buffer, self.setup)

    def update(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the mean of no critic losses
            self.trpo.train()

    def theta(self) -> Tensor:
        return flat([p.detach() for p in self.actor])


def _trpo(policy, rows: int, setup: UpdateSetup):
    """A TRPO object around the spaces of ``policy``; its environment is never stepped."""
    import gymnasium
    from sb3_contrib import TRPO
    from stable_baselines3.common.logger import configure

    class Spaces(gymnasium.Env):
        observation_space, action_space = policy.observation_space, policy.action_space

    trpo = TRPO(
        "MlpPolicy",
        Spaces(),
        n_steps=rows,
        batch_size=rows,
        cg_max_steps=setup.iterations,
        cg_damping=setup.solve.damping,
        target_kl=setup.max_kl,
        n_critic_updates=0,
        normalize_advantage=False,
        policy_kwargs={"net_arch": []},
        device=setup.solve.obs.device,
    )
    trpo.set_logger(configure(None, []))
    trpo._current_progress_remaining = 1.0
    return trpo


def _fill(buffer, setup: UpdateSetup) -> None:
    """The rows as collection leaves them: NumPy arrays [steps, envs, ...] on the host."""
    rows = setup.solve.obs.shape[0]
    buffer.reset()
    buffer.observations = setup.solve.obs.cpu().numpy().reshape(rows, 1, -1)
    buffer.actions = setup.actions.cpu().numpy().reshape(rows, 1, -1).astype(np.float32)
    buffer.advantages = setup.advantages.cpu().numpy().reshape(rows, 1)
    buffer.log_probs = setup.log_probs.cpu().numpy().reshape(rows, 1)
    buffer.pos, buffer.full = rows, True


class Sb3UpdateReplica(UpdateOpponent):
    """The same sequence of operations on plain tensors that already are where they are needed."""

    name = "sb3_replica"

    def __init__(self, setup: UpdateSetup, precision: str) -> None:
        super().__init__(setup, precision)
        self.params = [p.detach().clone() for p in setup.solve.params]

    def reset(self) -> None:
        for mine, given in zip(self.params, self.setup.solve.params, strict=True):
            mine.copy_(given)

    def theta(self) -> Tensor:
        return flat(self.params)

    def _distribution(self, params: list[Tensor]) -> torch.distributions.Distribution:
        distribution = self.setup.solve.distribution(params)
        return getattr(distribution, "base_dist", distribution)

    def _kl(self, new, old) -> Tensor:
        return torch.distributions.kl_divergence(new, old).mean()

    def _objective(self, distribution) -> Tensor:
        log_prob = distribution.log_prob(self.setup.actions)
        log_prob = log_prob.sum(1) if log_prob.ndim == 2 else log_prob
        ratio = torch.exp(log_prob - self.setup.log_probs)
        return (self.setup.advantages * ratio).mean()

    def update(self) -> None:
        params = [p.detach().requires_grad_() for p in self.params]
        with torch.no_grad():
            old = self._distribution(self.params)
        new = self._distribution(params)
        kl, objective = self._kl(new, old), self._objective(new)
        grad = torch.autograd.grad
        kl_parts = [grad(kl, p, create_graph=True, retain_graph=True)[0] for p in params]
        g = flat(
            [grad(objective, p, retain_graph=True, allow_unused=True)[0] for p in params]
        ).detach()
        gradient = flat(kl_parts)

        def product(v: Tensor) -> Tensor:
            parts = grad((gradient * v).sum(), params, retain_graph=True)
            return flat(parts) + self.setup.solve.damping * v

        x = Sb3Replica.search_direction(product, g, self.setup.iterations)
        quad = float(torch.matmul(x, product(x)))
        self._line_search(x, float(np.sqrt(2 * self.setup.max_kl / quad)), old, objective)

    @torch.no_grad()
    def _line_search(self, x: Tensor, size: float, old, objective: Tensor) -> None:
        parts = self.setup.solve.split(x)
        for j in range(10):
            candidate = [
                p + (0.8**j * size) * part for p, part in zip(self.params, parts, strict=True)
            ]
            new = self._distribution(candidate)
            value = self._objective(new)
            if self._kl(new, old) < self.setup.max_kl and value > objective:
                self.params = candidate
                return
