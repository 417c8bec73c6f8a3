"""sb3's TRPO, or another class in its place, with a rollout buffer filled from given numbers."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import obs_as_tensor

ROWS, ENVS = 96, 2
OBSERVATIONS = spaces.Box(-10.0, 10.0, (5,), np.float64)
DICT = spaces.Dict(
    {
        "vector": spaces.Box(-10.0, 10.0, (4,), np.float32),
        "table": spaces.Box(-10.0, 10.0, (2, 3), np.float64),
        "choice": spaces.Discrete(3),
    }
)
ACTIONS: dict[str, spaces.Space] = {
    "box": spaces.Box(-1.0, 1.0, (2,), np.float32),
    "matrix": spaces.Box(-1.0, 1.0, (2, 2), np.float32),
    "discrete": spaces.Discrete(4),
    "multidiscrete": spaces.MultiDiscrete([2, 3, 4]),
    "multibinary": spaces.MultiBinary(3),
}


class DoubleFlatten(FlattenExtractor):
    """Features in float64, for a policy that was made ``double()``."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return super().forward(observations).double()


class Spaces(gymnasium.Env):
    """Two spaces; nothing happens."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


def model(kind: type, action_space: spaces.Space, **options: Any) -> Any:
    """A model with two copies of an environment, its policy seeded, its buffer empty."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    observation_space = options.pop("observation_space", OBSERVATIONS)
    policy = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    env = DummyVecEnv([lambda: Spaces(observation_space, action_space)] * ENVS)
    options = {"n_steps": ROWS // ENVS, "batch_size": 24, "seed": 0, "device": "cpu"} | options
    made = kind(options.pop("policy", policy), env, **options)
    made.set_logger(configure(None, []))
    made._current_progress_remaining = 1.0
    return made


def fill(made: Any, donor: Any) -> None:
    """Rows into the buffer whose actions a policy of the same spaces has chosen, equal numbers for
    equal donors.
    """
    rng, buffer = np.random.default_rng(5), made.rollout_buffer
    made.observation_space.seed(5)
    torch.manual_seed(5)
    buffer.reset()
    for _ in range(buffer.buffer_size):
        drawn = [made.observation_space.sample() for _ in range(ENVS)]
        if isinstance(made.observation_space, spaces.Dict):
            obs: Any = {key: np.stack([row[key] for row in drawn]) for key in drawn[0]}
        else:
            obs = np.stack(drawn)
            obs = obs if obs.dtype == np.uint8 else 0.1 * obs
        with torch.no_grad():
            actions, values, log_probs = donor.policy(obs_as_tensor(obs, "cpu"))
        rewards, starts = rng.normal(size=ENVS), rng.uniform(size=ENVS) < 0.1
        buffer.add(obs, actions.numpy(), rewards, starts, values, log_probs)
    buffer.compute_returns_and_advantage(values, starts)


def parameters(made: Any, part: str) -> torch.Tensor:
    """The actor's or the critic's parameters in one vector."""
    named = made.policy.named_parameters()
    return torch.cat(
        [p.detach().flatten() for n, p in named if ("value" in n) == (part == "critic")]
    )
