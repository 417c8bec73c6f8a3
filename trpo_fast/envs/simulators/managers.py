"""Isaac Lab and mjlab: environments of managers, whose observations come in groups.

    step(actions) -> (groups, rewards, terminated, time_outs, extras)

Copies that end are reset in the same step. ``extras["final_obs"]`` has the groups before that, in
Isaac Lab with ``cfg.compute_final_obs``; otherwise a time-out is worth what the state before it
was. Where there is a group for the critic, the critic sees that one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._base.arguments import fail
from ..tensor.base import TensorStep, unbounded
from .spaces import actions_of, device_of

POLICY, CRITIC = ("policy", "actor"), ("critic",)  # what groups are called


class IsaacLab:
    """An environment of Isaac Lab, manager-based or direct, made by ``gymnasium.make`` or by its
    class. ``policy`` and ``critic`` name groups of observations; critic="" has the critic see what
    the policy sees.
    """

    def __init__(self, env: Any, *, policy: str | None = None, critic: str | None = None) -> None:
        self.env = env
        core = getattr(env, "unwrapped", env)
        if getattr(getattr(core, "cfg", None), "auto_reset", True) is False:
            raise fail("env", "one that resets copies by itself", "cfg.auto_reset=False")
        self.num_envs, self.device = int(core.num_envs), device_of(core.device)
        self.single_action_space = actions_of(core.single_action_space)
        groups, _ = env.reset()
        self.policy = _group(groups, policy, POLICY, "policy")
        self.critic = None if critic == "" else _group(groups, critic, CRITIC, "critic")
        self.single_observation_space = unbounded(self._flat(groups, self.policy).shape[1])
        self.groups = groups
        if self.critic is not None:
            self.single_critic_observation_space = unbounded(self._critic_obs(groups).shape[1])
            self.critic_obs = lambda: self._critic_obs(self.groups)

    def _flat(self, groups: Any, name: str) -> Tensor:
        """A group's observations [E, O]; the terms of one that is a dictionary side by side."""
        found = groups[name]
        parts = list(found.values()) if hasattr(found, "values") and not _is_tensor(found) else None
        if parts is None:
            return found.reshape(self.num_envs, -1)
        return torch.cat([part.reshape(self.num_envs, -1) for part in parts], 1)

    def _critic_obs(self, groups: Any) -> Tensor:
        assert self.critic is not None
        return self._flat(groups, self.critic)

    def reset(self, seed: int | None = None) -> Tensor:
        """Start every copy anew; the policy's observations [E, O]."""
        self.groups, _ = self.env.reset(seed=seed)
        return self._flat(self.groups, self.policy)

    def step(self, actions: Tensor) -> TensorStep:
        """Move every copy by its action [E, A]."""
        self.groups, rewards, terminated, late, extras = self.env.step(actions)
        final = extras.get("final_obs") if hasattr(extras, "get") else None
        truncated = (late > 0) & ~(terminated > 0)
        parts: dict[str, Tensor | None] = {"final_obs": None}
        if final is not None:  # in the rows that ended; others are of an earlier step, or nothing
            parts = {
                "final_obs": self._flat(final, self.policy),
                "final_rows": (terminated > 0) | (late > 0),
            }
            if self.critic is not None:
                parts["final_critic_obs"] = self._critic_obs(final)
        obs = self._flat(self.groups, self.policy)
        return TensorStep(obs, rewards, terminated, truncated, **parts)


class Mjlab(IsaacLab):
    """An environment of mjlab, whose groups are "actor" and "critic"."""


def _is_tensor(found: Any) -> bool:
    return isinstance(found, Tensor)


def _group(groups: Any, name: str | None, usual: tuple[str, ...], argument: str) -> Any:
    """The group of a name, or the one that is usual; no critic's group is none."""
    there = list(groups.keys())
    if name is not None:
        if name not in there:
            raise fail(argument, f"a group of observations among {there}", repr(name))
        return name
    found = next((word for word in usual if word in there), None)
    if found is None and argument == "policy":
        wanted = f"a group of observations called {' or '.join(usual)}, or policy=... of {there}"
        raise fail(argument, wanted, "none")
    return found
