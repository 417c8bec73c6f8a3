"""Whether what a checkpoint holds can be trained on: kinds, shapes and ranges of its parts, and one
trial of the policy, the critic and each environment.

A part that cannot would fail in the middle of an update, long after the file was read.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._base.arguments import check_array, check_count, check_number, fail
from .._base.rows import map_rows, parts_of
from ..envs.engines import EnvRequest
from ..envs.gym.host import HostEnvs
from ..envs.gym.state import restore
from ..envs.observations import arranged, parts_of_space, unusable
from .agent import Agent

MAX_COUNTER = 2**53  # of anything that is counted: a float64 holds each number up to it


def check_counter(name: str, value: Any, *, least: int = 0) -> int:
    if check_count(name, value, least=least) > MAX_COUNTER:
        raise fail(name, f"at most {MAX_COUNTER}", value)
    return int(value)


def check_module(name: str, state: Any, module: nn.Module) -> None:
    """The tensors of a module's state, as the module has them now; parameters are finite."""
    present = module.state_dict(keep_vars=True)
    if not isinstance(state, dict):
        raise fail(name, "a dictionary", type(state).__name__)
    for key in present.keys() & state.keys():  # load_state_dict names those that are in one only
        live, saved = present[key], state[key]
        if isinstance(live, Tensor):
            nan = not isinstance(live, nn.Parameter)
            saved = saved if not nan else _without_infinities(saved)
            check_array(f"{name} {key}", saved, tuple(live.shape), live.dtype, nan=nan)


def _without_infinities(value: Any) -> Any:
    """A buffer may hold what it likes, such as the minus infinity of a mask."""
    return value.nan_to_num() if isinstance(value, Tensor) else value


def check_critic(state: dict[str, Any]) -> None:
    """What the critic's optimiser and target statistics are made of."""
    for name in ("mean", "std", "moments"):
        if not bool(state[name].isfinite().all()):
            raise fail(f"critic {name}", "finite numbers", "some that are not")
    if float(state["std"]) <= 0.0:
        raise fail("critic std", "a number above 0", float(state["std"]))
    if bool((state["moments"][1] < 0.0).any()):
        raise fail("critic moments", "second moments of at least 0", "some below")
    for count in state["_extra_state"].tolist():
        check_counter("critic _extra_state", count)


def check_recent(recent: Any, most: int) -> None:
    """[returns, lengths] of the last episodes."""
    returns, lengths = recent
    if len(returns) != len(lengths) or len(returns) > most:
        raise fail("recent", f"at most {most} returns and as many lengths", len(returns))
    for value in returns:
        check_number("recent return", value)
    for value in lengths:
        check_counter("recent length", value, least=1)


def check_trial(agent: Agent) -> None:
    """The policy samples actions of finite probability where the environments stand, and the critic
    values these states.
    """
    collector = agent.collector
    with torch.no_grad():
        rows = map_rows(lambda part: _on(part, collector.layout.device), collector.obs)
        if agent.normaliser is not None:
            rows = agent.normaliser(rows)
        rows = map_rows(lambda part: part.to(agent.device), rows)
        mask = getattr(collector, "mask", None)
        mask = None if mask is None else torch.from_numpy(mask).to(agent.device)
        head, memory, view = agent.head, collector.memory, getattr(collector, "view", None)
        if memory is None:
            params = agent.params(rows, mask)
            values = agent.critic.values(rows) if view is None else view.present()
        else:
            given = collector.obs if collector.fused else rows
            params, values = memory.params(rows, mask), memory.last_values(given)
        chance = torch.Generator(agent.device).manual_seed(0)
        finite = values.isfinite().all()
        for _, part in parts_of(rows):
            finite &= part.isfinite().all()
        if bool(finite & (params.isfinite() | (mask is not None)).all()):
            actions = head.sample(params, chance)
            finite &= head.log_prob(params, actions).isfinite().all()
            finite &= head.entropy(params).isfinite().all()
            if bool(finite):
                return
    raise fail("policy", "finite probabilities and values in the saved states", "others")


def _on(part: Any, device: torch.device) -> Tensor:
    """An array or tensor of observations as a tensor on a device, floats as float32."""
    tensor = torch.as_tensor(part).to(device)
    return tensor.float() if tensor.is_floating_point() else tensor


def check_env_states(agent: Agent, states: Any) -> None:
    """An environment of the same id steps and resets from each saved state. It is another one, so
    that those which train are left as they are.
    """
    masked = getattr(agent.collector, "mask", None) is not None
    if masked or not isinstance(agent.envs, HostEnvs) or not isinstance(agent.env_source, str):
        return
    options, kept = agent.env_options, agent.structured
    env = EnvRequest(agent.env_source, 1, options=options, structured=kept).maker()()
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            for copy, state in enumerate(states):
                env.reset(seed=0)
                restore(env, state)
                try:
                    wrong = _trial_episode(env)
                except Exception as error:
                    wrong = f"{type(error).__name__}: {error}"
                if wrong:
                    raise fail(f"envs {copy}", "a state that can be stepped from", wrong)
    finally:
        env.close()


def _trial_episode(env: Any) -> str | None:
    """What is wrong with two steps and a reset, or None."""
    for _ in range(2):
        obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        if not math.isfinite(np.float32(reward)):
            return f"a reward of {reward}"
        if terminated or truncated:
            break
    for found in (obs, env.reset()[0]):
        parts = parts_of_space(env.observation_space)
        rows = map_rows(lambda array: array[None], arranged(parts, found, None, "its environment"))
        if wrong := unusable(parts, rows):
            return f"an observation with {wrong[1].removesuffix(',')}"
    return None
