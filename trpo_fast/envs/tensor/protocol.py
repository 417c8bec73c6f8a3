"""What a tensor environment must have and give, checked once: before training, after its first
reset and after its first step.
"""

from __future__ import annotations

import inspect
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ..._base.arguments import fail
from ..flat import check_flat

CALLS = {"reset": "seed", "step": "actions"}
SPACES = ("single_observation_space", "single_action_space")
PARTS = ("obs", "rewards", "terminated", "truncated", "final_obs")


def is_tensor_env(env: Any) -> bool:
    """Whether an object is meant as a tensor environment: it names the torch.device it lives on."""
    place = getattr(env, "device", None)
    return not isinstance(env, str | type) and isinstance(place, torch.device)


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
    for name in SPACES:
        space = getattr(env, name, None)
        if not isinstance(space, gymnasium.Space):
            raise fail(who, f"{name}, a gymnasium space", type(space).__name__)
    if not isinstance(env.single_observation_space, gymnasium.spaces.Box):
        got = env.single_observation_space
        raise fail(who, "a Box as single_observation_space", got)
    check_flat(env.single_observation_space)


def check_obs(env: Any, obs: Any, what: str = "reset") -> Tensor:
    """Observations [E, O] of numbers on the environment's device."""
    size = int(torch.Size(env.single_observation_space.shape).numel())
    return _check(env, f"env.{what}", obs, (int(env.num_envs), size))


def check_step(env: Any, step: Any) -> None:
    """The five tensors of a step: obs and final_obs [E, O], rewards [E], terminated and truncated
    [E] bool.
    """
    missing = [name for name in PARTS if not hasattr(step, name)]
    if missing:
        wanted = f"an object with {', '.join(PARTS)}, such as a trpo_fast.envs.tensor.TensorStep"
        length = f" of {len(step)}" if isinstance(step, tuple | list) else ""
        raise fail("env.step", wanted, f"{type(step).__name__}{length} without {missing[0]}")
    check_obs(env, step.obs, "step(...).obs")
    check_obs(env, step.final_obs, "step(...).final_obs")
    for name in PARTS[1:4]:
        kind = None if name == "rewards" else torch.bool
        _check(env, f"env.step(...).{name}", getattr(step, name), (int(env.num_envs),), kind)


def _check(
    env: Any, name: str, value: Any, shape: tuple[int, ...], kind: torch.dtype | None = None
) -> Tensor:
    if not isinstance(value, Tensor):
        raise fail(name, "a torch.Tensor", type(value).__name__)
    if tuple(value.shape) != shape:
        raise fail(name, f"shape {list(shape)}", list(value.shape))
    if kind is not None and value.dtype != kind:
        raise fail(name, f"dtype {kind}", value.dtype)
    if kind is None and (value.dtype == torch.bool or value.is_complex()):
        raise fail(name, "real numbers", value.dtype)
    if not same_place(env.device, value.device):
        wanted = f"a tensor on {env.device}, where the environment is"
        raise fail(name, wanted, f"one on {value.device}")
    return value


def same_place(one: torch.device, other: torch.device) -> bool:
    """Whether two devices are one; "cuda" may be any of several."""
    return one.type == other.type and (one.index == other.index or None in (one.index, other.index))
