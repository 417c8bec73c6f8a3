"""skrl's TRPO, or another class in its place, with a memory filled from given numbers."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from skrl.agents.torch.trpo import TRPO_CFG
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, GaussianMixin, Model
from torch import Tensor, nn

ENVS, STEPS, OBS, ACTIONS = 8, 12, 5, 2
OBSERVATIONS = gymnasium.spaces.Box(-10.0, 10.0, (OBS,))
BOX = gymnasium.spaces.Box(-1.0, 1.0, (ACTIONS,))
CHOICE = gymnasium.spaces.Discrete(3)


def perceptron(outputs: int, activation: type = nn.ELU) -> nn.Sequential:
    return nn.Sequential(nn.Linear(OBS, 8), activation(), nn.Linear(8, 6), activation(), nn.Linear(6, outputs))  # fmt: skip  # noqa: E501


class Policy(GaussianMixin, Model):
    def __init__(self, activation: type = nn.ELU, **options: Any) -> None:
        Model.__init__(self, observation_space=OBSERVATIONS, action_space=BOX, device="cpu")
        GaussianMixin.__init__(self, **options)
        self.net = perceptron(ACTIONS, activation)
        self.log_std_parameter = nn.Parameter(torch.zeros(ACTIONS))

    def compute(self, inputs: dict[str, Tensor], role: str = "") -> Any:
        return self.net(inputs["observations"]), {"log_std": self.log_std_parameter}


class Choice(CategoricalMixin, Model):
    def __init__(self) -> None:
        Model.__init__(self, observation_space=OBSERVATIONS, action_space=CHOICE, device="cpu")
        CategoricalMixin.__init__(self)
        self.net = perceptron(3)

    def compute(self, inputs: dict[str, Tensor], role: str = "") -> Any:
        return self.net(inputs["observations"]), {}


class Value(DeterministicMixin, Model):
    def __init__(self) -> None:
        Model.__init__(self, observation_space=OBSERVATIONS, action_space=BOX, device="cpu")
        DeterministicMixin.__init__(self)
        self.net = perceptron(1)

    def compute(self, inputs: dict[str, Tensor], role: str = "") -> Any:
        return self.net(inputs["observations"]), {}


class Double(RandomMemory):
    """Numbers in float64."""

    def create_tensor(self, name: str, *, size: Any, dtype: Any = None, **options: Any) -> bool:
        dtype = torch.float64 if dtype is torch.float32 else dtype
        return super().create_tensor(name, size=size, dtype=dtype, **options)


def agent(kind: type, policy: Any = None, **options: Any) -> Any:
    """An agent, seeded, in float64, after ``STEPS`` steps."""
    torch.manual_seed(0)
    policy = Policy() if policy is None else policy
    models = {"policy": policy.double(), "value": Value().double()}
    made = kind(
        models=models,
        memory=Double(memory_size=STEPS, num_envs=ENVS),
        observation_space=OBSERVATIONS,
        action_space=policy.action_space,
        device="cpu",
        cfg=TRPO_CFG(rollouts=STEPS, **options),
    )
    made.init()
    made.enable_training_mode(True)
    fill(made)
    return made


def fill(made: Any) -> None:
    draws = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    torch.manual_seed(2)
    observations = draw(ENVS, OBS)
    for step in range(STEPS):
        with torch.no_grad():
            actions, _ = made.act(observations, None, timestep=step, timesteps=STEPS)
        following, ends = draw(ENVS, OBS), draw(ENVS, 1) > 1.5
        made.record_transition(
            observations=observations,
            states=None,
            actions=actions,
            rewards=draw(ENVS, 1),
            next_observations=following,
            next_states=None,
            terminated=ends,
            truncated=torch.zeros_like(ends),
            infos={},
            timestep=step,
            timesteps=STEPS,
        )
        observations = following
