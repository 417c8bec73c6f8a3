"""An agent as a tree that a checkpoint holds, and back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from .._base.extras import require
from ..policy.cnn import CNNPolicy
from ..policy.net import MLPPolicy
from ..policy.recurrent import RecurrentPolicy
from ..policy.stock import altered
from ..policy.wrappers import unwrapped
from . import checkpoint
from .agent import Agent
from .agent_config import net_kind
from .config import from_dict, without_unused
from .parts import env_name
from .state_checks import (
    check_counter,
    check_critic,
    check_env_states,
    check_module,
    check_recent,
    check_trial,
)
from .trust import check_imports_nothing, check_options

AgentT = TypeVar("AgentT", bound=Agent)


def pack(agent: Agent) -> dict[str, Any]:
    """Everything that training goes on from."""
    normaliser, scaler = agent.normaliser, agent.reward_scaler
    policy = unwrapped(agent.policy)  # torch.compile would put its own name before every weight
    stock = isinstance(policy, MLPPolicy | RecurrentPolicy) and policy.follows_spec()
    stock |= agent.config.policy == "cnn" and _as_made(policy)
    return {
        "kind": "TRPO",
        "config": agent.config.as_dict(),
        "env_has_id": isinstance(agent.env_source, str),
        "env_options": agent.env_options,
        "policy": dict(policy.state_dict()),
        "own_policy": None if stock else type(policy).__name__,
        "own_critic": agent.own_critic,
        "critic": dict(agent.critic.state_dict()),
        "normaliser": None if normaliser is None else normaliser.state_dict(),
        "reward_scaler": None if scaler is None else scaler.state_dict(),
        "penalty": agent.penalty.state_dict(),
        "trust_region": agent.trust_region.state_dict(),
        "generator": agent.generator.get_state(),
        "counters": [agent.steps, agent.updates, agent.episodes, agent.restarts],
        "recent": [list(agent.recent_returns), list(agent.recent_lengths)],
        "collector": agent.collector.state(),
        "envs": agent.collector.env_state(),
    }


def _as_made(policy: nn.Module) -> bool:
    """Whether a policy for images has no hooks and no frozen parts, which settings do not say."""
    named = policy.named_modules()
    plain = not any(altered(name or "policy", module.__dict__) for name, module in named)
    trained = all(p.requires_grad for p in policy.parameters())
    return type(policy) is CNNPolicy and plain and trained


def unpack(agent: Agent, tree: dict[str, Any]) -> None:
    """Bring a fresh agent of the same config to a packed state."""
    policy = unwrapped(agent.policy)
    check_module("policy", tree["policy"], policy)
    policy.load_state_dict(tree["policy"])
    check_module("critic", tree["critic"], agent.critic)
    check_critic(tree["critic"])
    agent.critic.load_state_dict(tree["critic"])
    if agent.normaliser is not None:
        agent.normaliser.load_state_dict(tree["normaliser"])
    if agent.reward_scaler is not None:
        agent.reward_scaler.load_state_dict(tree["reward_scaler"])
    agent.penalty.load_state_dict(tree["penalty"])
    agent.trust_region.load_state_dict(tree["trust_region"])
    agent.generator.set_state(tree["generator"])
    counters = [check_counter("counters", count) for count in tree["counters"]]
    agent.steps, agent.updates, agent.episodes, agent.restarts = counters
    check_recent(tree["recent"], agent.recent_returns.maxlen or 0)
    agent.recent_returns.extend(tree["recent"][0])
    agent.recent_lengths.extend(tree["recent"][1])
    agent.started = True
    why = agent.collector.unsupported()
    if tree["envs"] is not None and why is None:
        check_env_states(agent, tree["envs"])
        agent.collector.load_env_state(tree["envs"])
        agent.collector.load_state(tree["collector"])
        check_trial(agent)
        return
    warnings.warn(
        f"the episodes under way start anew, because {why or 'their states were not saved'}; "
        "everything else continues",
        stacklevel=4,
    )
    agent.restart()
    check_trial(agent)


def restore(
    make: Callable[..., AgentT],
    path: str | os.PathLike[str],
    env: Any,
    device: str | None,
    trust_env: bool,
    nets: dict[str, nn.Module | None],
    env_options: dict[str, Any] | None,
) -> AgentT:
    """The agent of a checkpoint; what does not fit becomes a ``CheckpointError``."""
    gymnasium = require("gymnasium", "TRPO", "train")
    tree = checkpoint.load(path)
    kind_of = tree.get("kind")
    if not (isinstance(kind_of, str) and kind_of == "TRPO"):
        raise checkpoint.CheckpointError(f"path: expected an agent's checkpoint, got {path}")
    _check_nets(tree, nets, path)
    try:
        values = dict(tree["config"])
        if env is not None:
            values["env"] = env_name(env)
        elif not tree.get("env_has_id", True):  # absent in older ones
            raise _needs_env(path, values["env"], "a function or an object made it")
        elif not trust_env:
            check_imports_nothing(values["env"])
        if env_options is None:
            env_options = dict(tree["env_options"])
            if not trust_env:
                check_options(env_options)
        # Once, what a policy does not use could be chosen beside it, and did nothing.
        kind = net_kind(values.get("policy", "auto"), nets["policy"])
        values = without_unused(values, kind)
        config = from_dict(values | ({"device": device} if device else {}))
        agent = make(
            config.env if env is None else env,
            config=config,
            **nets,
            env_options=env_options,
        )
        try:
            unpack(agent, tree)
        except BaseException:
            if not hasattr(env, "num_envs"):  # the caller's own stay open
                agent.close()
            raise
    except checkpoint.CheckpointError:
        raise
    except (gymnasium.error.Error, ImportError) as error:
        who = "gymnasium" if isinstance(error, gymnasium.error.Error) else "its module"
        raise _needs_env(path, values["env"], f"{who}: {error}") from error
    except Exception as error:  # whatever the parts of an agent make of what the file holds
        why = f"it holds no {error}" if isinstance(error, KeyError) else error
        raise checkpoint.CheckpointError(
            f"path: {path} does not fit this environment and version: {why}"
        ) from error
    return agent


def _check_nets(
    tree: dict[str, Any], nets: dict[str, nn.Module | None], path: str | os.PathLike[str]
) -> None:
    """Refuse to load without a policy or critic that settings do not describe."""
    for name, net in nets.items():
        own = tree.get(f"own_{name}")  # absent in older ones
        if not isinstance(own, str | None):
            raise checkpoint.CheckpointError(f"path: expected an agent's checkpoint, got {path}")
        if own is not None and net is None:
            raise checkpoint.CheckpointError(
                f"{name}: expected one such as the {own} of {path}, which has methods, "
                "hooks, layers, frozen parts or a head that settings do not describe, got none: "
                f"give TRPO.load(path, {name}=...)"
            )


def _needs_env(path: str | os.PathLike[str], name: str, why: str) -> checkpoint.CheckpointError:
    return checkpoint.CheckpointError(
        f"env: expected an environment that can be made here, got {name!r} for {path} ({why}); "
        "give env=, TRPO.load(path, env=...)"
    )
