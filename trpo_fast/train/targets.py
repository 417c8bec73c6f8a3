"""What an update learns from: a rollout's transitions with their advantages and returns.

The policy gradient of the discounted return weighs step t of an episode by gamma^t. Without
``discount_weights`` that factor is dropped, as nearly everyone does: every row counts as if its
episode began there, and late ones are learned from as much as early ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._base.arguments import fail
from .._base.rows import map_rows
from ..core.batch import Batch
from ..learner import advantage
from .agent import Agent
from .rollout import Rollout

LARGE = 1e12  # of smaller rewards it takes a million to make such returns


def estimate(agent: Agent, rollout: Rollout) -> tuple[Batch, Tensor, Tensor]:
    """(batch of N transitions, the critic's targets [N], its predictions [N]) on the policy's
    device.
    """
    config, rewards, device = agent.config, rollout.rewards, agent.device
    if agent.reward_scaler is not None:
        rewards = agent.reward_scaler(rewards, rollout.done, rollout.valid)
    gains = _gains(agent, rollout, rewards)

    def flat(tensor: Tensor) -> Tensor:
        """[T, E, ...] to [N, ...] on the policy's device, reset rows dropped."""
        moved: Tensor = rollout.transitions(tensor).to(device)
        return moved

    returns, values = flat(gains + rollout.values), flat(rollout.values)
    if not agent.asynchronous:
        check_size(rewards, returns)
    advantages = returns if config.advantage == "returns" else flat(gains)
    agent.trust_region.update_share(advantages)
    weights = None
    if config.discount_weights:
        weights = advantage.discount_weights(flat(rollout.episode_steps()), config.gamma)
    if config.normalize_advantages:
        advantages = advantage.normalise(advantages, weights)
    mask = None if rollout.mask is None else flat(rollout.mask)
    obs = map_rows(lambda part: part.to(device), rollout.transitions(rollout.obs))
    actions, log_probs = flat(rollout.actions), flat(rollout.log_probs)
    batch = Batch(obs, actions, advantages, log_probs, weights, action_mask=mask)
    return batch, returns, values


def _gains(agent: Agent, rollout: Rollout, rewards: Tensor) -> Tensor:
    """Q - V [T, E] by the config's estimator; what remains of the whole return is GAE(1)."""
    config = agent.config
    rows = rewards, rollout.values, rollout.following, rollout.done
    if config.advantage == "n_step":
        return advantage.n_step(*rows, gamma=config.gamma, steps=config.n_step)
    return advantage.gae(
        *rows,
        gamma=config.gamma,
        lam=1.0 if config.advantage == "returns" else config.gae_lambda,
        backend=config.backend if rewards.device == agent.device else "reference",
    )


def check_size(rewards: Tensor, returns: Tensor) -> None:
    """Refuse large rewards [T, E] that make returns [N] whose variance float32 cannot hold."""
    spread = (returns / len(returns) ** 0.5).square().sum()
    if torch.isfinite(spread):
        return
    paid, sums = (float(tensor.abs().max()) for tensor in (rewards, returns))
    if LARGE < paid < math.inf:
        wanted = "ones whose returns float32 can square (normalize_rewards=True scales them)"
        raise fail("rewards", wanted, f"up to {paid:.3g}, which make returns up to {sums:.3g}")
