"""Running a policy without training it: returns of whole episodes, and frames for a video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .arguments import check_count, fail
from .envs.engines import make_host
from .envs.host import HostEnvs
from .extras import require
from .prediction import sampler
from .seeds import derive, derive_all
from .setup import is_tensor_env

if TYPE_CHECKING:
    from .trainer import TRPO


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths of whole episodes."""

    returns: list[float]
    lengths: list[int]

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        return float(np.std(self.returns))

    def __str__(self) -> str:
        count, length = len(self.returns), float(np.mean(self.lengths))
        return (
            f"return {self.mean:.1f} +- {self.std:.1f} over {count} episodes of {length:.0f} steps"
        )


def evaluate(
    agent: TRPO,
    episodes: int = 10,
    *,
    deterministic: bool = True,
    seed: int = 10_000,
    env: Any = None,
) -> Evaluation:
    """Whole episodes on environments of their own, made the way the agent's were (or from
    ``env``).
    """
    if not hasattr(agent, "env_source"):
        raise fail("agent", "a trpo_fast.TRPO", type(agent).__name__)
    check_count("episodes", episodes)
    kept, agent.sampler = agent.sampler, sampler(seed, agent.device, "evaluation actions")
    try:
        return _evaluate(agent, episodes, deterministic, seed, env)
    finally:
        agent.sampler = kept


def _evaluate(agent: TRPO, episodes: int, deterministic: bool, seed: int, env: Any) -> Evaluation:
    source = agent.env_source if env is None else env
    if is_tensor_env(source) or (agent.config.engine == "tensor" and env is None):
        return _tensor_episodes(agent, source, episodes, deterministic, seed)
    if hasattr(source, "num_envs"):
        raise ValueError(
            "env: expected a gymnasium id or a function that makes one environment, "
            "got a vector environment, which cannot be copied"
        )
    name = agent.config.env
    if env is None and agent.config.engine == "envpool":
        source = (
            name  # gymnasium's twin of EnvPool's environment: one episode per copy is simpler there
        )
    envs = make_host(source, min(episodes, 10), options=agent.env_options)
    try:
        return _host_episodes(agent, envs, episodes, deterministic, seed)
    finally:
        envs.close()


def _host_episodes(
    agent: TRPO, envs: HostEnvs, episodes: int, deterministic: bool, seed: int
) -> Evaluation:
    """A fixed share of episodes for every copy: taking the first to finish would favour short
    ones.
    """
    share = [
        episodes // envs.num_envs + (i < episodes % envs.num_envs) for i in range(envs.num_envs)
    ]
    done: list[list[tuple[float, int]]] = [[] for _ in share]
    total, steps = np.zeros(envs.num_envs), np.zeros(envs.num_envs, int)
    obs, infos = envs.reset(derive_all(seed, "evaluation", envs.num_envs))
    width = agent.collector.layout.mask_width
    while any(len(ended) < wanted for ended, wanted in zip(done, share, strict=True)):
        mask = envs.masks(infos, width) if width else None
        actions = agent.predict(obs.copy(), deterministic=deterministic, action_mask=mask)
        obs, rewards, terminated, truncated, infos = envs.step(np.asarray(actions))
        total, steps = total + rewards, steps + 1
        for i in np.flatnonzero(terminated | truncated):
            if len(done[i]) < share[i]:
                done[i].append((float(total[i]), int(steps[i])))
            total[i], steps[i] = 0.0, 0
    pairs = [pair for ended in done for pair in ended]
    return Evaluation([r for r, _ in pairs], [n for _, n in pairs])


def _tensor_episodes(
    agent: TRPO, source: Any, episodes: int, deterministic: bool, seed: int
) -> Evaluation:
    """The first episode of as many copies as episodes are wanted."""
    from .envs import tensor

    name = source if isinstance(source, str) else None
    if name is None:
        if not isinstance(source, tensor.TensorEnv):
            raise ValueError("env: expected a name or one of trpo_fast's tensor environments")
        env = source.sized(episodes)
    else:
        env = tensor.make(name, episodes, device=agent.device, **agent.env_options)
    obs = env.reset(derive(seed, "evaluation"))
    total = torch.zeros(episodes, device=env.device)
    steps = torch.zeros_like(total)
    running = torch.ones(episodes, dtype=torch.bool, device=env.device)
    for _ in range(env.max_episode_steps):
        step = env.step(torch.as_tensor(agent.predict(obs, deterministic=deterministic)))
        total += torch.where(running, step.rewards, 0.0)
        steps += running
        running &= ~(step.terminated | step.truncated)
        obs = step.obs
    return Evaluation(total.tolist(), [int(n) for n in steps.tolist()])


def record_video(agent: TRPO, path: str, *, seed: int = 10_000, max_steps: int = 2000) -> float:
    """One episode as an animated image (GIF); returns its return."""
    gymnasium: Any = require("gymnasium", "a video", "train")
    image: Any = require("PIL.Image", "a video", "train")

    name = agent.config.env
    try:
        env = _rendering(agent)
        obs, info = env.reset(seed=derive(seed, "evaluation", 0))
        frames = [image.fromarray(np.asarray(env.render()))]
    except Exception as error:
        raise ValueError(
            f"env: expected one that renders here, {name} does not: {type(error).__name__}: {error}"
        ) from error
    total, over, steps = 0.0, False, 0
    flat = gymnasium.spaces.flatten
    while not over and steps < max_steps:
        action = agent.predict(
            flat(env.observation_space, obs), action_mask=info.get("action_mask")
        )
        obs, reward, terminated, truncated, info = env.step(np.asarray(action)[()])
        total, over, steps = total + float(reward), terminated or truncated, steps + 1
        frames.append(image.fromarray(np.asarray(env.render())))
    rate = float(env.metadata.get("render_fps", 30) or 30)
    env.close()
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=max(20, round(1000 / rate)), loop=0
    )
    return total


def _rendering(agent: TRPO) -> Any:
    """An environment such as the agent's that renders to arrays."""
    import inspect

    import gymnasium

    source = agent.env_source
    if isinstance(source, str):
        return gymnasium.make(source, render_mode="rgb_array", **agent.env_options)
    if not callable(source):
        raise ValueError(f"it is a {type(source).__name__}, of which there is no single copy")
    asks = "render_mode" in inspect.signature(source).parameters
    env = source(render_mode="rgb_array") if asks else source()
    if env.render_mode != "rgb_array":
        raise ValueError(
            f"its function makes it with render_mode={env.render_mode!r}, expected 'rgb_array'"
        )
    return env
