"""rsl_rl's algorithms with a storage filled from given numbers, and a small environment for it."""

from __future__ import annotations

from typing import Any

import torch
from rsl_rl.algorithms import PPO
from rsl_rl.env import VecEnv
from tensordict import TensorDict
from torch import Tensor

from trpo_fast.envs.tensor.pendulum import Pendulum

ENVS, STEPS, OBS, ACTIONS = 8, 12, 5, 2
GAUSSIAN = {"class_name": "GaussianDistribution", "std_type": "log"}
MODEL = {"class_name": "MLPModel", "hidden_dims": [8, 6], "activation": "elu"}


class Swing(VecEnv):
    """Pendulum-v1, its torque and reward scaled."""

    def __init__(self, num_envs: int) -> None:
        self.inner = Pendulum(num_envs)
        self.num_envs, self.num_actions, self.max_episode_length = num_envs, 1, 200
        self.device, self.cfg = self.inner.device, {}
        self.episode_length_buf = self.inner.elapsed
        self.obs = self.inner.reset(0)

    def get_observations(self) -> TensorDict:
        return TensorDict({"policy": self.obs}, batch_size=[self.num_envs])

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        self.inner.elapsed = self.episode_length_buf
        done = self.inner.step(2.0 * actions)
        self.obs, ended = done.obs, done.terminated | done.truncated
        return self.get_observations(), 0.1 * done.rewards, ended, {"time_outs": done.truncated}


class Spaces(VecEnv):
    """Numbers of copies and actions; nothing happens."""

    step_dt = 0.02

    def __init__(self, obs: TensorDict) -> None:
        self.num_envs, self.num_actions, self.device, self.cfg = ENVS, ACTIONS, "cpu", {}
        self.obs, self.unwrapped = obs, self

    def get_observations(self) -> TensorDict:
        return self.obs

    def step(self, actions: Tensor) -> Any:
        raise NotImplementedError


def observations(generator: torch.Generator, image: bool = False) -> TensorDict:
    groups = {"a": torch.randn(ENVS, OBS - 2, generator=generator)}
    groups["b"] = torch.randn(ENVS, 2, generator=generator)
    if image:
        groups["image"] = torch.randn(ENVS, 1, 6, 6, generator=generator)
    return TensorDict(groups, batch_size=[ENVS])


def algorithm(kind: Any = PPO, **options: Any) -> Any:
    """An algorithm, seeded, after ``STEPS`` steps; ``actor`` and ``critic`` add to the models."""
    torch.manual_seed(0)
    draws = torch.Generator().manual_seed(1)
    image = options.pop("image", False)
    obs = observations(draws, image)
    models = {
        "actor": {**MODEL, "distribution_cfg": GAUSSIAN, **options.pop("actor", {})},
        "critic": {**MODEL, **options.pop("critic", {})},
    }
    seen = ["a", "b", "image"] if image else ["a", "b"]
    cfg = {
        "algorithm": {"class_name": kind, **options},
        **models,
        "obs_groups": {"actor": seen, "critic": seen, "rnd_state": ["a"]},
        "num_steps_per_env": STEPS,
        "multi_gpu": None,
    }
    made = kind.construct_algorithm(obs, Spaces(obs), cfg, "cpu")
    fill(made, draws, image)
    return made


def fill(made: Any, draws: torch.Generator, image: bool = False) -> None:
    obs = observations(draws, image)
    with torch.inference_mode():
        for _ in range(STEPS):
            made.act(obs)
            obs = observations(draws, image)
            ends = torch.rand(ENVS, generator=draws) < 0.2
            late = ends & (torch.rand(ENVS, generator=draws) < 0.5)
            rewards = torch.randn(ENVS, generator=draws)
            made.process_env_step(obs, rewards, ends, {"time_outs": late})
        made.compute_returns(obs)


def written_out(made: Any, max_kl: float = 0.01, damping: float = 0.1) -> list[Tensor]:
    """The actor's parameters after a step by differentiating rsl_rl's own KL twice, from the
    storage's rows; the model is left as it was.
    """
    model, storage = made.actor, made.storage
    obs, actions = storage.observations.flatten(0, 1), storage.actions.flatten(0, 1)
    advantages = storage.advantages.flatten().clone()
    parameters = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in parameters]

    def evaluated() -> tuple[Tensor, tuple[Tensor, ...]]:
        model.distribution.update(model.mlp(model.get_latent(obs)))
        ratio = (model.get_output_log_prob(actions) - old_log_probs).exp()
        return (ratio * advantages).mean(), model.output_distribution_params

    def flat(y: Tensor, **options: Any) -> Tensor:
        parts = torch.autograd.grad(y, parameters, **options)
        return torch.cat([part.reshape(-1) for part in parts])

    with torch.no_grad():
        old_log_probs = torch.zeros(())
        _, old = evaluated()
        old_log_probs = model.get_output_log_prob(actions)
    value, params = evaluated()
    g = flat(value, retain_graph=True)
    slope = flat(model.get_kl_divergence(old, params).mean(), create_graph=True)

    def product(v: Tensor) -> Tensor:
        return flat(slope @ v, retain_graph=True) + damping * v

    x, r = torch.zeros_like(g), g.clone()
    p, square = r.clone(), r @ r
    for _ in range(10):
        z = product(p)
        alpha = square / (p @ z)
        x, r = x + alpha * p, r - alpha * z
        p, square = r + (r @ r) / square * p, r @ r
    size = (2.0 * max_kl / (x @ product(x))).sqrt()
    for j in range(10):
        step = (0.8**j * size * x).split([p.numel() for p in parameters])
        with torch.no_grad():
            for q, s, d in zip(parameters, start, step, strict=True):
                q.copy_(s + d.view_as(s))
            better, params = evaluated()
            if better > value and model.get_kl_divergence(old, params).mean() <= max_kl:
                break
    found = [q.detach().clone() for q in parameters]
    with torch.no_grad():
        for q, s in zip(parameters, start, strict=True):
            q.copy_(s)
    return found
