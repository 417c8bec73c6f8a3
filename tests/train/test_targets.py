"""What an update learns from follows the settings: discount, lambda, scaled rewards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("gymnasium")

from trpo_fast.learner.normalise import RewardScaler
from trpo_fast.train.rollout import Rollout
from trpo_fast.train.targets import estimate
from trpo_fast.train.trainer import TRPO

SMALL: dict[str, Any] = {
    "num_envs": 2,
    "rows_per_update": 64,
    "hidden": (16,),
    "critic_hidden": (16,),
    "normalize_advantages": False,
}


def brute(rollout: Rollout, rewards: Tensor, gamma: float, lam: float) -> Tensor:
    """GAE [N], row by row, as the formula has it."""
    result, ahead = torch.zeros_like(rewards), torch.zeros(rewards.shape[1])
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma * rollout.following[t] - rollout.values[t]
        ahead = delta + gamma * lam * torch.where(rollout.done[t], 0.0, ahead)
        result[t] = ahead
    return result.flatten()


@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (0.9, 0.95), (0.7, 1.0), (0.95, 0.3)])
@pytest.mark.parametrize("engine", ["sync", "tensor"])
def test_discount_and_lambda_are_the_settings(gamma: float, lam: float, engine: str) -> None:
    agent = TRPO("CartPole-v1", gamma=gamma, gae_lambda=lam, engine=engine, **SMALL)
    agent.start()
    rollout = agent.collect()
    batch, returns, values = estimate(agent, rollout)
    wanted = brute(rollout, rollout.rewards, gamma, lam)
    assert rollout.done.any()
    torch.testing.assert_close(batch.advantages, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(returns, wanted + values, rtol=1e-4, atol=1e-5)


def test_scaled_rewards_are_what_is_learnt_from() -> None:
    agent = TRPO("Pendulum-v1", normalize_rewards=True, gamma=0.9, **SMALL)
    scaler = RewardScaler(2, 0.9)
    for _ in range(2):
        agent.start()
        rollout = agent.collect()
        scaled = scaler(rollout.rewards, rollout.done)
        assert not torch.allclose(scaled, rollout.rewards, rtol=0.1)
        wanted = brute(rollout, scaled, 0.9, agent.config.gae_lambda)
        batch, returns, values = estimate(agent, rollout)
        torch.testing.assert_close(batch.advantages, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(returns, wanted + values, rtol=1e-4, atol=1e-5)
