"""Running a policy without training it: returns of whole episodes, and frames for a video."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .._base import files
from .._base.arguments import check_count, fail
from .._base.extras import require
from .._base.rows import map_rows
from .._base.seeds import derive, derive_all
from ..envs.engines import make_host
from ..envs.gym.host import HostEnvs
from .agent import Agent, EnvSource
from .episodes import Evaluation, EvaluationRequest
from .evaluate_tensors import evaluate_tensors
from .parts import is_tensor_env
from .predict import Player, sampler

VIDEOS = (".gif", ".png", ".webp")


def evaluate(
    agent: Agent,
    episodes: int = 10,
    *,
    deterministic: bool = True,
    seed: int = 10_000,
    env: EnvSource | None = None,
    max_steps: int = 100_000,
) -> Evaluation:
    """Whole episodes on environments of their own, made the way the agent's were (or from
    ``env``).

    An episode that goes on for ``max_steps`` is cut there: a warning says so, its return so far
    counts, and the next one begins where it was. A tensor environment that cannot be copied is
    borrowed: it goes back to its state, or training goes on with new episodes.
    """
    if not hasattr(agent, "env_source"):
        raise fail("agent", "a trpo_fast.TRPO", type(agent).__name__)
    check_count("episodes", episodes)
    check_count("max_steps", max_steps)
    check_count("seed", seed, least=0)
    kept, agent.sampler = agent.sampler, sampler(seed, agent.device, "evaluation actions")
    try:
        request = EvaluationRequest(episodes, deterministic, seed, max_steps)
        found, cut = _evaluate(agent, request, env)
    finally:
        agent.sampler = kept
    if cut:
        warnings.warn(
            f"max_steps: {cut} of {episodes} episodes still went on after {max_steps} steps and "
            "were cut there",
            stacklevel=2,
        )
    return found


def _evaluate(agent: Agent, request: EvaluationRequest, env: Any) -> tuple[Evaluation, int]:
    """The episodes, and how many of them were cut."""
    source = agent.env_source if env is None else env
    if is_tensor_env(source) or (agent.config.engine == "tensor" and env is None):
        return evaluate_tensors(agent, source, request)
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
    copies = min(request.episodes, 10)
    options = agent.env_options
    envs = make_host(source, copies, options=options, structured=agent.structured)
    try:
        return _host_episodes(agent, envs, request)
    finally:
        envs.close()


def _host_episodes(
    agent: Agent, envs: HostEnvs, request: EvaluationRequest
) -> tuple[Evaluation, int]:
    share, cuts = request.share(envs.num_envs), 0
    done: list[list[tuple[float, int]]] = [[] for _ in share]
    total, steps = np.zeros(envs.num_envs), np.zeros(envs.num_envs, int)
    obs, infos = envs.reset(derive_all(request.seed, "evaluation", envs.num_envs))
    width, player = agent.collector.layout.mask_width, Player(agent, request.deterministic)
    while any(len(ended) < wanted for ended, wanted in zip(done, share, strict=True)):
        mask = envs.masks(infos, width) if width else None
        actions = player.actions(map_rows(np.copy, obs), mask)
        obs, rewards, terminated, truncated, infos = envs.step(np.asarray(actions))
        total, steps = total + rewards, steps + 1
        over = terminated | truncated
        player.ended(over)
        for i in np.flatnonzero(over | (steps >= request.max_steps)):
            if len(done[i]) < share[i]:
                done[i].append((float(total[i]), int(steps[i])))
                cuts += not over[i]
            total[i], steps[i] = 0.0, 0
    pairs = [pair for ended in done for pair in ended]
    return Evaluation([r for r, _ in pairs], [n for _, n in pairs]), cuts


def check_video(path: str | os.PathLike[str]) -> Path:
    """Where ``record_video`` can write: an animated image by its ending, in a directory."""
    path = Path(path)
    if path.suffix.lower() not in VIDEOS:
        endings = f"{', '.join(VIDEOS[:-1])} or {VIDEOS[-1]}"
        raise fail("render", f"a file that ends in {endings}", path.name)
    if not path.parent.is_dir():
        raise fail("render", "a file in a directory", f"{path}: {path.parent} is none")
    return path


def record_video(
    agent: Agent, path: str | os.PathLike[str], *, seed: int = 10_000, max_steps: int = 2000
) -> float:
    """One episode as an animated image (.gif, .png, .webp); returns its return."""
    path = check_video(path)
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
    player = Player(agent, deterministic=True)
    kept = agent.collector.layout.parts is not None
    while not over and steps < max_steps:
        seen = obs if kept else gymnasium.spaces.flatten(env.observation_space, obs)
        action = player.actions(seen, info.get("action_mask"))
        obs, reward, terminated, truncated, info = env.step(np.asarray(action)[()])
        total, over, steps = total + float(reward), terminated or truncated, steps + 1
        frames.append(image.fromarray(np.asarray(env.render())))
    rate = float(env.metadata.get("render_fps", 30) or 30)
    env.close()
    data, more = io.BytesIO(), frames[1:]
    options = {"save_all": True, "append_images": more, "duration": max(20, round(1000 / rate))}
    frames[0].save(data, format=path.suffix[1:], loop=0, **options)
    files.write(path, data.getvalue())
    return total


def _rendering(agent: Agent) -> Any:
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
