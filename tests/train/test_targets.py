"""What an update learns from follows the settings: discount, lambda, scaled rewards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("gymnasium")

import gymnasium
from advantage_cases import brute_n_step
from envs_for_tests import Counting

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


@pytest.mark.parametrize("engine", ["sync", "tensor"])
def test_returns_are_q_itself_and_n_steps_are_q_minus_v(engine: str) -> None:
    """On one rollout, whose episodes end, are cut by the time limit, and go on after it."""
    settings = SMALL | {"rows_per_update": 256}
    if engine == "sync":
        settings |= {"env_options": {"max_episode_steps": 15}}
    agent = TRPO("CartPole-v1", gamma=0.9, engine=engine, **settings)
    if engine == "tensor":
        agent.envs.max_episode_steps = 15
    agent.start()
    rollout = agent.collect()
    assert rollout.terminated.any() and rollout.truncated.any()
    wanted = {"returns": brute(rollout, rollout.rewards, 0.9, 1.0)}
    cases: dict[str, Any] = {
        name: getattr(rollout, name).double() for name in ("rewards", "values")
    }
    cases |= {"terminated": rollout.terminated, "truncated": rollout.truncated}
    cases |= {"final": rollout.following, "last": rollout.following[-1]}
    wanted["n_step"] = brute_n_step(cases, 0.9, 3).float().flatten()
    for kind, gains in wanted.items():
        agent.config.advantage, agent.config.n_step = kind, 3
        batch, returns, values = estimate(agent, rollout)
        torch.testing.assert_close(returns, gains + values, rtol=1e-4, atol=1e-5)
        given = returns if kind == "returns" else gains
        torch.testing.assert_close(batch.advantages, given, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["returns", "n_step"])
@pytest.mark.parametrize("engine", ["sync", "tensor"])
def test_every_estimator_learns(kind: str, engine: str) -> None:
    settings = {"num_envs": 8, "rows_per_update": 512, "engine": engine, "seed": 1}
    agent = TRPO("CartPole-v1", advantage=kind, **settings)
    returns = [agent.train_once()["return"] for _ in range(20)]
    assert returns[-1] > 2.0 * returns[0]


@pytest.mark.parametrize("kind", ["SAME_STEP", "NEXT_STEP"])
def test_rows_are_weighed_by_the_step_within_their_episode(kind: str) -> None:
    """Over rollouts whose ends cut episodes; these observations hold the step."""
    mode = getattr(gymnasium.vector.AutoresetMode, kind)
    envs = gymnasium.vector.SyncVectorEnv([lambda: Counting(7)] * 2, autoreset_mode=mode)
    settings = SMALL | {"rows_per_update": 20, "normalize_observations": False}
    agent = TRPO(envs, discount_weights=True, gamma=0.5, **settings)
    agent.start()
    for _ in range(4):
        batch, _, _ = estimate(agent, agent.collect())
        steps = batch.obs[:, 1]
        assert steps.max() == 6 and batch.weights is not None
        torch.testing.assert_close(batch.weights, 0.5 ** (steps - steps.min()))
    assert agent.update(batch).accepted


def test_rows_of_a_tensor_environment_are_weighed_over_rollouts() -> None:
    agent = TRPO("Pendulum-v1", engine="tensor", discount_weights=True, gamma=0.9, **SMALL)
    agent.envs.max_episode_steps = 50  # rollouts have 32 steps
    for first in (0, 32, 14, 46):
        agent.start()
        batch, _, _ = estimate(agent, agent.collect())
        steps = (first + torch.arange(32)) % 50
        weights = 0.9 ** (steps - steps.min()).float()
        torch.testing.assert_close(batch.weights, weights.repeat_interleave(2))


def test_weighted_advantages_are_normalised_by_their_weights() -> None:
    settings = SMALL | {"normalize_advantages": True}
    agent = TRPO("CartPole-v1", discount_weights=True, gamma=0.8, **settings)
    agent.start()
    batch, _, _ = estimate(agent, agent.collect())
    assert batch.weights is not None and batch.advantages is not None
    share = batch.weights / batch.weights.sum()
    assert abs(float((share * batch.advantages).sum())) < 1e-5
    assert float((share * batch.advantages.square()).sum()) == pytest.approx(1.0, rel=1e-4)
