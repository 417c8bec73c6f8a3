"""What a tensor environment must have and give, checked once: before training, with one reset and
one step, and again at the first step of training.
"""

from __future__ import annotations

import inspect
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._base.arguments import fail
from ..flat import check_flat, numbers_in
from .base import TensorStep

CALLS = {"reset": "seed", "step": "actions"}
SPACES = ("single_observation_space", "single_action_space")
CRITIC_SPACE = "single_critic_observation_space"
FLAGS = ("terminated", "truncated")
PARTS = ("obs", "rewards", *FLAGS, "final_obs")
OPTIONAL = ("final_rows", "final_critic_obs", "valid")


def is_tensor_env(env: Any) -> bool:
    """Whether an object is meant as a tensor environment: it lives on a torch.device, and has most
    of the other members of one.
    """
    if isinstance(env, str | type) or not isinstance(getattr(env, "device", None), torch.device):
        return False
    return sum(hasattr(env, name) for name in ("num_envs", *CALLS, *SPACES)) >= 3


def check_environment(env: Any) -> None:
    """The methods and attributes of a tensor environment; nothing is called."""
    import gymnasium

    who = f"env ({type(env).__name__}, a tensor environment as it has a torch.device)"
    for name, argument in CALLS.items():
        call = getattr(env, name, None)
        if not callable(call):
            raise fail(who, f"a method {name}({argument})", "none")
        try:
            inspect.signature(call).bind(None)
        except TypeError as error:
            raise fail(who, f"a method {name}({argument})", f"one with {error}") from None
        except ValueError:  # a call without a signature may be right
            continue
    count = getattr(env, "num_envs", None)
    if isinstance(count, bool) or not isinstance(count, Integral) or int(count) < 1:
        raise fail(who, "num_envs, an integer of at least 1", repr(count))
    critic = [CRITIC_SPACE] if hasattr(env, CRITIC_SPACE) else []
    for name in (*SPACES, *critic):
        space = getattr(env, name, None)
        if not isinstance(space, gymnasium.Space):
            raise fail(who, f"{name}, a gymnasium space", type(space).__name__)
    for name in (SPACES[0], *critic):
        space = getattr(env, name)
        if not isinstance(space, gymnasium.spaces.Box):
            raise fail(who, f"a Box as {name}", space)
        check_flat(space)
    if bool(critic) != callable(getattr(env, "critic_obs", None)):
        got = "only one of them"
        raise fail(who, f"both a method critic_obs() and {CRITIC_SPACE}, or neither", got)


def try_environment(env: Any) -> None:
    """One reset and one step, whose results are checked. Training resets it again."""
    check_obs(env, env.reset(0))
    if hasattr(env, CRITIC_SPACE):
        check_critic_obs(env, env.critic_obs(), "critic_obs")
    check_step(env, env.step(_some_actions(env)))


def _some_actions(env: Any) -> Tensor:
    """Actions [E, ...] of the action space, as near zero as it allows."""
    space = env.single_action_space
    first: Any = np.zeros(space.shape, space.dtype)
    if hasattr(space, "low"):
        first = np.clip(first, space.low, space.high).astype(space.dtype)
    if hasattr(space, "start"):
        first = first + np.asarray(space.start, space.dtype)
    one = torch.as_tensor(first).to(env.device)
    return one.expand(int(env.num_envs), *one.shape).clone()


def check_obs(env: Any, obs: Any, what: str = "reset") -> Tensor:
    """Observations [E, O] of numbers on the environment's device."""
    return _check(env, f"env.{what}", obs, (int(env.num_envs), _width(env, SPACES[0])))


def check_critic_obs(env: Any, obs: Any, what: str) -> Tensor:
    """Observations [E, C] of the critic."""
    return _check(env, f"env.{what}", obs, (int(env.num_envs), _width(env, CRITIC_SPACE)))


def _width(env: Any, name: str) -> int:
    return numbers_in(getattr(env, name))


def check_step(env: Any, step: Any) -> None:
    """The tensors of a step: obs and final_obs [E, O], rewards [E], flags [E], and what else it
    has.
    """
    missing = [name for name in PARTS if not hasattr(step, name)]
    if missing:
        wanted = f"an object with {', '.join(PARTS)}, such as a trpo_fast.envs.tensor.TensorStep"
        length = f" of {len(step)}" if isinstance(step, tuple | list) else ""
        raise fail("env.step", wanted, f"{type(step).__name__}{length} without {missing[0]}")
    check_obs(env, step.obs, "step(...).obs")
    if step.final_obs is not None:
        check_obs(env, step.final_obs, "step(...).final_obs")
    one = (int(env.num_envs),)
    _check(env, "env.step(...).rewards", step.rewards, one)
    for name in FLAGS:
        _check(env, f"env.step(...).{name}", getattr(step, name), one, flags=True)
    for name in ("final_rows", "valid"):
        if getattr(step, name, None) is not None:
            _check(env, f"env.step(...).{name}", getattr(step, name), one, flags=True)
    if getattr(step, "final_critic_obs", None) is not None:
        check_critic_obs(env, step.final_critic_obs, "step(...).final_critic_obs")


def read_step(step: Any) -> TensorStep:
    """A step with flags that are bool, and rows that are no transitions without rewards or ends."""
    terminated, truncated = as_flag(step.terminated), as_flag(step.truncated)
    rewards, optional = step.rewards, {name: getattr(step, name, None) for name in OPTIONAL}
    for name in ("final_rows", "valid"):
        flags = optional[name]
        optional[name] = None if flags is None else as_flag(flags)
    if (valid := optional["valid"]) is not None:
        terminated, truncated = terminated & valid, truncated & valid
        rewards = torch.where(valid, rewards, torch.zeros_like(rewards))
    return TensorStep(step.obs, rewards, terminated, truncated, step.final_obs, **optional)


def as_flag(values: Tensor) -> Tensor:
    """Bool of a flag [E] that may be a number."""
    return values if values.dtype == torch.bool else values > 0.5


def _check(
    env: Any, name: str, value: Any, shape: tuple[int, ...], *, flags: bool = False
) -> Tensor:
    if not isinstance(value, Tensor):
        raise fail(name, "a torch.Tensor", type(value).__name__)
    if tuple(value.shape) != shape:
        raise fail(name, f"shape {list(shape)}", list(value.shape))
    if value.is_complex() or (value.dtype == torch.bool and not flags):
        raise fail(name, "flags, bool or real numbers" if flags else "real numbers", value.dtype)
    if not same_place(env.device, value.device):
        wanted = f"a tensor on {env.device}, where the environment is"
        raise fail(name, wanted, f"one on {value.device}")
    return value


def same_place(one: torch.device, other: torch.device) -> bool:
    """Whether two devices are one; "cuda" may be any of several."""
    return one.type == other.type and (one.index == other.index or None in (one.index, other.index))
