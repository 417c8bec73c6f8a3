"""The training loop on a tensor environment, between two log lines: nothing waits for the device or
copies from the host, at any width, for any kind of net, critic, estimator and rule.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("gymnasium")

import numpy as np
from gymnasium.spaces import Box
from no_waits import no_waits
from torch import nn
from torch.distributions import Categorical

from trpo_fast.envs import tensor
from trpo_fast.train.trainer import TRPO

FEW: dict[str, Any] = {
    "engine": "tensor",
    "device": "cpu",
    "num_envs": 4,
    "rows_per_update": 32,
    "backend": "reference",
    "cg_iterations": 2,
    "backtrack_steps": 2,
    "critic_epochs": 1,
    "critic_minibatch": 16,
    "critic_steps": 1,
    "critic_cg_iterations": 2,
    "seed": 1,
}
CASES: dict[str, dict[str, Any]] = {
    "64": {"hidden": (64, 64)},
    "256": {"hidden": (256, 256), "critic_hidden": (256, 256)},
    "512": {"hidden": (512, 256, 128), "critic": "gauss_newton"},
    "normalised": {"normalize_observations": True, "normalize_rewards": True},
    "gru": {"policy": "gru", "normalize_observations": True, "discount_weights": True},
    "lstm": {"policy": "lstm", "sequence_length": 4, "normalize_rewards": True},
    "schedules": {"max_kl_final": 1e-3, "max_kl_steps": 1000, "kl_rule": "gain"},
    "critic's schedule": {"critic_schedule": "linear", "critic_schedule_steps": 400},
    "parts": {"critic_rows": 0.5, "fvp_fraction": 0.5, "updates_per_rollout": 2},
    "n-step": {"advantage": "n_step", "preconditioner": "kfac"},
    "returns": {"advantage": "returns", "discount_weights": True},
    "kfac critic": {"critic": "gauss_newton", "critic_preconditioner": "kfac"},
    **{name: {"algorithm": name} for name in ("npg", "pg", "rat", "kl-penalty")},
    "dual": {"algorithm": "kl-penalty", "penalty_rule": "dual", "penalty_rounds": 3},
    "adam inside": {"algorithm": "kl-penalty", "penalty_inner": "adam", "penalty_adam_steps": 2},
}


class Trunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(4, 12), nn.LayerNorm(12), nn.Tanh())
        self.out = nn.Linear(12, 2)

    def forward(self, obs: torch.Tensor) -> Categorical:
        return Categorical(logits=self.out(self.shared(obs)))


class Images(nn.Module):
    """Convolutions over what the four numbers make."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2))

    def forward(self, obs: torch.Tensor) -> Categorical:
        pixels = (obs[:, :, None] * obs[:, None, :]).unsqueeze(1)
        return Categorical(logits=self.net(pixels))


def trained(agent: TRPO, updates: int = 2) -> list[int]:
    """How many operators ran before each log line, once it is known that none of them waited."""
    read, ran = TRPO._read, []
    agent.start()
    agent.collector.asynchronous = True  # as on a device: nothing is selected by values

    class LogLine(Exception):
        """Where the numbers of an update are read."""

    def stop(*given: Any) -> None:
        raise LogLine(*given)

    for _ in range(updates):
        agent._read = stop  # type: ignore[method-assign]
        generators = [agent.generator, agent.envs.generator]  # type: ignore[union-attr]
        with pytest.raises(LogLine) as reached, no_waits(generators=generators) as mode:
            agent.train_once()
        ran.append(mode.operators)
        read(agent, *reached.value.args)
    return ran


@pytest.mark.parametrize(
    ("name", "env"),
    [(name, "CartPole-v1") for name in CASES]
    + [(name, "Pendulum-v1") for name in ("256", "gru", "parts")],
)
def test_nothing_waits_between_two_log_lines(name: str, env: str) -> None:
    agent = TRPO(env, **(FEW | CASES[name]))
    assert all(count > 100 for count in trained(agent))


@pytest.mark.parametrize("make", [Trunk, Images])
def test_nor_for_a_module_of_ones_own(make: type[nn.Module]) -> None:
    policy = make()
    critic = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 1))
    trained(TRPO("CartPole-v1", policy=policy, critic=critic, **FEW))


class Told(tensor.CartPole):
    """One whose critic sees more than the policy."""

    single_critic_observation_space = Box(-np.inf, np.inf, (5,), np.float32)

    def critic_obs(self) -> torch.Tensor:
        return torch.cat([self.observe(self.physics), self.elapsed[:, None].float()], 1)


def test_nor_where_the_critic_sees_more() -> None:
    env = Told(4)
    options = {name: value for name, value in FEW.items() if name not in ("engine", "num_envs")}
    trained(TRPO(env, normalize_observations=True, **options))
