"""An agent as a tree that a checkpoint holds, and back."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from . import checkpoint
from .config import from_dict
from .extras import require
from .setup import check_imports_nothing, env_name, start_seed

if TYPE_CHECKING:
    from .policy import MLPPolicy
    from .trainer import TRPO


def pack(agent: TRPO) -> dict[str, Any]:
    """Everything that training goes on from."""
    normaliser, scaler = agent.normaliser, agent.reward_scaler
    return {
        "kind": "TRPO",
        "config": agent.config.as_dict(),
        "env_has_id": isinstance(agent.env_source, str),
        "env_options": agent.env_options,
        "policy": dict(agent.policy.state_dict()),
        "own_policy": None if agent.policy.follows_spec() else type(agent.policy).__name__,
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


def unpack(agent: TRPO, tree: dict[str, Any]) -> None:
    """Bring a fresh agent of the same config to a packed state."""
    agent.policy.load_state_dict(tree["policy"])
    agent.critic.load_state_dict(tree["critic"])
    if agent.normaliser is not None:
        agent.normaliser.load_state_dict(tree["normaliser"])
    if agent.reward_scaler is not None:
        agent.reward_scaler.load_state_dict(tree["reward_scaler"])
    agent.penalty.load_state_dict(tree["penalty"])
    agent.trust_region.load_state_dict(tree["trust_region"])
    agent.generator.set_state(tree["generator"])
    agent.steps, agent.updates, agent.episodes, agent.restarts = tree["counters"]
    agent.recent_returns.extend(tree["recent"][0])
    agent.recent_lengths.extend(tree["recent"][1])
    agent.started = True
    why = agent.collector.unsupported()
    if tree["envs"] is not None and why is None:
        agent.collector.load_env_state(tree["envs"])
        agent.collector.load_state(tree["collector"])
        return
    agent.restarts += 1
    warnings.warn(
        f"the episodes under way start anew, because {why or 'their states were not saved'}; "
        "everything else continues",
        stacklevel=4,
    )
    agent.collector.start(start_seed(agent))


def restore(
    kind: type[TRPO],
    path: str | os.PathLike[str],
    env: Any,
    device: str | None,
    trust_env: bool,
    policy: MLPPolicy | None,
) -> TRPO:
    """The agent of a checkpoint; what does not fit becomes a ``CheckpointError``."""
    gymnasium = require("gymnasium", "TRPO", "train")
    tree = checkpoint.load(path)
    if tree.get("kind") != "TRPO":
        raise checkpoint.CheckpointError(f"path: expected an agent's checkpoint, got {path}")
    if tree.get("own_policy") and policy is None:  # absent in older ones
        raise checkpoint.CheckpointError(
            f"policy: expected one such as the {tree['own_policy']} of {path}, which has methods, "
            "hooks, layers, frozen parts or a head that settings do not describe, got none: "
            "give TRPO.load(path, policy=...)"
        )
    try:
        values = dict(tree["config"])
        if env is not None:
            values["env"] = env_name(env)
        elif not tree.get("env_has_id", True):  # absent in older ones
            raise _needs_env(path, values["env"], "a function or an object made it")
        elif not trust_env:
            check_imports_nothing(values["env"])
        config = from_dict(values | ({"device": device} if device else {}))
        agent = kind(
            config.env if env is None else env,
            config=config,
            policy=policy,
            env_options=tree["env_options"],
        )
        unpack(agent, tree)
    except checkpoint.CheckpointError:
        raise
    except (gymnasium.error.Error, ImportError) as error:
        who = "gymnasium" if isinstance(error, gymnasium.error.Error) else "its module"
        raise _needs_env(path, values["env"], f"{who}: {error}") from error
    except (LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        why = f"it holds no {error}" if isinstance(error, KeyError) else error
        raise checkpoint.CheckpointError(
            f"path: {path} does not fit this environment and version: {why}"
        ) from error
    return agent


def _needs_env(path: str | os.PathLike[str], name: str, why: str) -> checkpoint.CheckpointError:
    return checkpoint.CheckpointError(
        f"env: expected an environment that can be made here, got {name!r} for {path} ({why}); "
        "give env=, TRPO.load(path, env=...)"
    )
