"""Training with Beta actions: in the box from the first step on, through files and out of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from trpo_fast import TRPO, Beta, MLPPolicy
from trpo_fast.train.export import export

SMALL: dict[str, Any] = {
    "num_envs": 4,
    "rows_per_update": 400,
    "hidden": (16,),
    "critic_hidden": (16,),
    "action_mode": "beta",
}


@pytest.mark.parametrize("engine", ["sync", "tensor"])
def test_pendulum_trains_and_its_files_work(engine: str, tmp_path: Path) -> None:
    agent = TRPO("Pendulum-v1", engine=engine, seed=1, **SMALL)
    assert isinstance(agent.policy.head, Beta)
    for _ in range(4):
        row = agent.train_once()
        assert row["reason"] == "accepted" and 0 < row["kl"] <= 1.5 * agent.config.max_kl
    assert row["backend"] in ("cpu", "reference")

    obs = torch.randn(50, 3).numpy()
    for deterministic in (True, False):
        actions = agent.predict(obs, deterministic=deterministic)
        assert actions.shape == (50, 1) and (np.abs(actions) <= 2.0).all()
        assert len(np.unique(actions)) > 25

    agent.save(tmp_path / "agent.safetensors")
    again = TRPO.load(tmp_path / "agent.safetensors")
    assert isinstance(again.policy.head, Beta)
    np.testing.assert_array_equal(again.predict(obs), agent.predict(obs))
    assert again.train_once()["reason"] == "accepted"

    program = torch.export.load(export(agent, tmp_path / "policy.pt2")).module()
    np.testing.assert_allclose(program(torch.from_numpy(obs)), agent.predict(obs), atol=1e-5)


def test_a_beta_policy_decides_the_action_mode() -> None:
    policy = MLPPolicy(3, Beta(1), (16,))
    assert TRPO("Pendulum-v1", policy=policy, num_envs=2).config.action_mode == "beta"
    with pytest.raises(ValueError, match="action_mode: expected 'beta' as in the policy"):
        TRPO("Pendulum-v1", policy=policy, num_envs=2, action_mode="scale")
    gaussian = MLPPolicy.for_spaces(*spaces_of("Pendulum-v1"))
    with pytest.raises(
        ValueError, match="expected 'clip' or 'scale' for a policy with the head Ga"
    ):
        TRPO("Pendulum-v1", policy=gaussian, num_envs=2, action_mode="beta")


def spaces_of(name: str) -> tuple[Any, Any]:
    env = gymnasium.make(name)
    return env.observation_space, env.action_space


def test_spaces() -> None:
    observations, actions = spaces_of("Pendulum-v1")
    assert isinstance(MLPPolicy.for_spaces(observations, actions, action_mode="beta").head, Beta)
    endless = spaces.Box(-np.inf, np.inf, (2,))
    with pytest.raises(ValueError, match=r"action_mode: expected .* without bounds, got 'beta'"):
        MLPPolicy.for_spaces(observations, endless, action_mode="beta")
    with pytest.raises(ValueError, match="action_mode: expected one of"):
        MLPPolicy.for_spaces(observations, actions, action_mode="tanh")
    assert TRPO("CartPole-v1", num_envs=2, action_mode="beta").policy.head.nvec == (2,)


def test_vine_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="sampling: expected 'path' for the head Beta"):
        TRPO("Pendulum-v1", sampling="vine", **SMALL).train_once()
