"""Evaluating on tensor environments: every copy plays its share, and nothing waits for the device
except a check, every ``CHECK_STEPS`` steps, whether all are done.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .._base.seeds import derive
from ..envs import tensor
from ..envs.tensor.protocol import check_environment, check_obs, check_step, read_step
from .agent import Agent
from .episodes import Evaluation, EvaluationRequest
from .predict import Player

CHECK_STEPS = 50  # steps on a device between checks whether all are done


def evaluate_tensors(
    agent: Agent, source: Any, request: EvaluationRequest
) -> tuple[Evaluation, int]:
    """The episodes of a tensor environment or of one by its name, and how many were cut."""
    if isinstance(source, str):
        env = tensor.make(source, request.episodes, device=agent.device, **agent.env_options)
        return _play(agent, env, request)
    check_environment(source)
    if isinstance(source, tensor.TensorEnv):
        return _play(agent, source.sized(request.episodes), request)
    with _borrowed(agent, source):
        return _play(agent, source, request)


@contextmanager
def _borrowed(agent: Agent, env: Any) -> Iterator[None]:
    """Leave training's own environment as it was, or start its episodes anew."""
    own: Any = agent.envs
    if env is not own or not agent.started:
        yield
        return
    why = agent.collector.unsupported()
    saved = None if why else own.state()
    try:
        yield
    finally:
        if why is None:
            own.load_state(saved)
        else:
            agent.restart()
            warnings.warn(
                f"training's episodes under way start anew, because they were evaluated in its own "
                f"environment and {why}",
                stacklevel=6,
            )


@torch.no_grad()
def _play(agent: Agent, env: Any, request: EvaluationRequest) -> tuple[Evaluation, int]:
    share = torch.tensor(request.share(env.num_envs), device=env.device)
    slots = int(share.max())
    returns = torch.zeros(env.num_envs, slots, device=env.device)
    lengths = torch.zeros_like(returns)
    total, steps = returns[:, 0].clone(), lengths[:, 0].clone()
    played, cuts = torch.zeros_like(share), torch.zeros_like(share)
    player = Player(agent, request.deterministic)
    obs = check_obs(env, env.reset(derive(request.seed, "evaluation")))
    every = 1 if torch.device(env.device).type == "cpu" else CHECK_STEPS
    for number in range(slots * request.max_steps):
        step = env.step(player.actions(obs))
        if number == 0:
            check_step(env, step)
        step = read_step(step)
        obs = step.obs
        total += step.rewards
        steps += 1 if step.valid is None else step.valid
        over = step.terminated | step.truncated
        player.ended(over if step.valid is None else over | ~step.valid)
        ended = over | (steps >= request.max_steps)
        counts = ended & (played < share)
        at = torch.arange(slots, device=env.device) == played[:, None]
        here = at & counts[:, None]
        returns, lengths = (
            torch.where(here, now[:, None], kept)
            for now, kept in ((total, returns), (steps, lengths))
        )
        played += counts
        cuts += counts & ~over
        total, steps = total.masked_fill(ended, 0.0), steps.masked_fill(ended, 0.0)
        if number % every == 0 and bool((played >= share).all()):
            break
    kept = torch.arange(slots, device=env.device) < share[:, None]
    whole = [int(n) for n in lengths[kept].tolist()]
    return Evaluation(returns[kept].tolist(), whole), int(cuts.sum())
