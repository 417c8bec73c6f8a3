"""What scripts for other libraries say, and what it is called here: a sentence in place of a
TypeError.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .._base.arguments import fail
from .._base.extras import require
from ..envs.simulators.known import check_wrapped

# What stable-baselines3 and sb3-contrib call some settings.
SETTINGS = {
    "n_steps": "rows_per_update (n_steps times num_envs)",
    "target_kl": "max_kl",
    "learning_rate": "critic_learning_rate",
    "batch_size": "critic_minibatch",
    "n_critic_updates": "critic_epochs",
    "cg_max_steps": "cg_iterations",
    "cg_damping": "damping",
    "line_search_shrinking_factor": "backtrack_ratio",
    "line_search_max_iter": "backtrack_steps",
    "normalize_advantage": "normalize_advantages",
    "sub_sampling_factor": "fvp_fraction, its inverse",
    "policy_kwargs": "hidden, critic_hidden, activation",
    "n_envs": "num_envs",
    "verbose": "a trpo_fast.ConsoleLogger among learn's callbacks",
    "tensorboard_log": "a trpo_fast.TensorBoardLogger among learn's callbacks",
}

# And what they call the arguments of learn.
LEARN = {
    "total_timesteps": "total_steps",
    "callback": "callbacks",
    "log_interval": "a trpo_fast.ConsoleLogger(total_steps, every=...) among callbacks",
    "progress_bar": "a trpo_fast.ConsoleLogger(total_steps) among callbacks",
    "tb_log_name": "a trpo_fast.TensorBoardLogger(directory) among callbacks",
    "reset_num_timesteps": "a new TRPO, or none to go on",
}

POLICIES = ("MlpPolicy", "CnnPolicy", "MultiInputPolicy")


def nearest(name: str, known: set[str]) -> str:
    """How a sentence about an unknown setting goes on: with the one that was probably meant."""
    import difflib

    if name in SETTINGS:
        return f", here {SETTINGS[name]}"
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f" such as {close[0]!r}" if close else ""


def check_agent(env: Any, more: tuple[Any, ...]) -> None:
    """The positional arguments of ``TRPO``: one, which environments can be made of."""
    gymnasium = require("gymnasium", "TRPO", "train")
    check_wrapped(env)
    if isinstance(env, str) and env in POLICIES:
        wanted = "the environment first, as in TRPO('CartPole-v1', hidden=(64, 64))"
        raise fail("env", wanted, f"the policy {env!r}")
    if isinstance(env, gymnasium.Env):
        wanted = "an id or a function that makes it, as in lambda: gymnasium.make('CartPole-v1')"
        raise fail("env", wanted, f"one environment, {env}, where training takes several")
    if more:
        wanted = "settings by name, as in TRPO(env, gamma=0.99) or TRPO(env, config=config)"
        raise TypeError(f"settings: expected {wanted}, got {type(more[0]).__name__} by position")


def check_learn(total_steps: Any, unknown: dict[str, Any]) -> None:
    """The arguments of ``learn`` that are none of its own."""
    for name in unknown:
        here = LEARN.get(name, "an argument of learn, such as total_steps or callbacks")
        raise TypeError(f"{name}: expected {here}, got an argument learn does not have")
    if total_steps is None:
        raise TypeError("total_steps: expected a number of environment steps, got none")


def check_callbacks(callbacks: Any) -> list[Any]:
    """The callbacks of ``learn``: one, or several."""
    several = isinstance(callbacks, Iterable) and not callable(callbacks)
    found = list(callbacks) if several else [callbacks]
    for callback in found:
        if not callable(callback):
            wanted = "a function of (agent, record), or several"
            raise fail("callbacks", wanted, f"{type(callback).__name__}, which cannot be called")
    return found
