"""What an update learns from: a rollout's transitions with their advantages and returns."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._base.arguments import fail
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
    advantages = advantage.gae(
        rewards,
        rollout.values,
        rollout.following,
        rollout.done,
        gamma=config.gamma,
        lam=config.gae_lambda,
        backend=config.backend if rewards.device == device else "reference",
    )

    def flat(tensor: Tensor) -> Tensor:
        """[T, E, ...] to [N, ...] on the policy's device, reset rows dropped."""
        return rollout.transitions(tensor).to(device)

    returns, values = flat(advantages + rollout.values), flat(rollout.values)
    if not agent.asynchronous:
        check_size(rewards, returns)
    advantages = flat(advantages)
    agent.trust_region.update_share(advantages)
    if config.normalize_advantages:
        advantages = advantage.normalise(advantages)
    mask = None if rollout.mask is None else flat(rollout.mask)
    obs, actions, log_probs = flat(rollout.obs), flat(rollout.actions), flat(rollout.log_probs)
    return Batch(obs, actions, advantages, log_probs, action_mask=mask), returns, values


def check_size(rewards: Tensor, returns: Tensor) -> None:
    """Refuse large rewards [T, E] that make returns [N] whose variance float32 cannot hold."""
    spread = (returns / len(returns) ** 0.5).square().sum()
    if torch.isfinite(spread):
        return
    paid, sums = (float(tensor.abs().max()) for tensor in (rewards, returns))
    if LARGE < paid < math.inf:
        wanted = "ones whose returns float32 can square (normalize_rewards=True scales them)"
        raise fail("rewards", wanted, f"up to {paid:.3g}, which make returns up to {sums:.3g}")
