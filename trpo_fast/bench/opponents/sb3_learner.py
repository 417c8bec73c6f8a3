"""The rest of sb3-contrib's learner: acting in its environments, and its loop over minibatches of
the critic.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Setup
from .sb3 import Sb3, make_policy


def policy_and_critic(setup: Setup, critic: list[Tensor]):
    """sb3's policy with the given actor and value net."""
    policy, _ = make_policy(setup)
    hidden = [m for m in policy.mlp_extractor.value_net if isinstance(m, torch.nn.Linear)]
    theirs = [p for m in (*hidden, policy.value_net) for p in (m.weight, m.bias)]
    with torch.no_grad():
        for mine, given in zip(theirs, critic, strict=True):
            mine.copy_(given)
    return policy


class Sb3Act:
    """policy.forward, as collect_rollouts calls it."""

    name = "sb3"
    support = staticmethod(Sb3.support)
    precisions = staticmethod(Sb3.precisions)

    def __init__(self, setup: Setup, critic: list[Tensor]) -> None:
        self.policy = policy_and_critic(setup, critic)
        self.obs = setup.obs
        self.actions: Tensor | None = None

    def act(self) -> tuple[Tensor, Tensor, Tensor]:
        """Actions [E, ...], values [E, 1], log-probabilities [E]."""
        with torch.no_grad():
            self.actions, values, log_probs = self.policy(self.obs)
        return self.actions, values, log_probs


class Sb3Critic:
    """The loop of TRPO.train() over minibatches: Adam at 1e-3 on the mean squared error."""

    name = "sb3"
    support = staticmethod(Sb3.support)
    precisions = staticmethod(Sb3.precisions)

    def __init__(
        self, setup: Setup, critic: list[Tensor], returns: Tensor, epochs: int, minibatch: int
    ) -> None:
        from stable_baselines3.common.buffers import RolloutBuffer

        self.setup, self.critic, self.epochs, self.minibatch = setup, critic, epochs, minibatch
        rows = setup.obs.shape[0]
        policy, _ = make_policy(setup)
        spaces = policy.observation_space, policy.action_space
        self.buffer = RolloutBuffer(rows, *spaces, device=setup.obs.device)
        self.returns = returns
        self.reset()

    def reset(self, seed: int = 3) -> None:
        self.policy = policy_and_critic(self.setup, self.critic)
        self.actor = [p for n, p in self.policy.named_parameters() if "value" not in n]
        # Their optimiser holds every parameter; Adam skips those without a gradient.
        self.policy.optimizer = torch.optim.Adam(self.policy.parameters(), lr=1e-3, eps=1e-5)
        self.fill(self.setup.obs, self.returns)
        np.random.seed(seed)

    def fill(self, obs: Tensor, returns: Tensor) -> None:
        """The rows of the next fit."""
        rows, buffer = obs.shape[0], self.buffer
        buffer.reset()
        buffer.observations = obs.cpu().numpy().reshape(rows, 1, -1)
        buffer.returns = returns.cpu().numpy().reshape(rows, 1)
        buffer.pos, buffer.full = rows, True

    def fit(self) -> None:
        for _ in range(self.epochs):
            for rollout in self.buffer.get(self.minibatch):
                predicted = self._predict(rollout.observations)
                loss = F.mse_loss(rollout.returns, predicted.flatten())
                loss.item()
                self.policy.optimizer.zero_grad()
                loss.backward()
                for p in self.actor:
                    p.grad = None
                self.policy.optimizer.step()

    def _predict(self, obs: Tensor) -> Tensor:
        if obs.dtype == torch.float32:
            return self.policy.predict_values(obs)
        # The float64 run that errors are measured against: predict_values would round it.
        return self.policy.value_net(self.policy.mlp_extractor.forward_critic(obs))

    def values(self, seed: int = 3) -> Tensor:
        """Predictions [N] after one fit."""
        self.reset(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.fit()
        return self.predict(self.setup.obs)

    def predict(self, obs: Tensor) -> Tensor:
        """Values [N] at obs [N, O]."""
        with torch.no_grad():
            return self._predict(obs)[:, 0]
