"""ManiSkill's vector environment: gymnasium's interface, with tensors.

    step(actions) -> (obs, rewards, terminated, truncated, infos)

Where copies ended, ``infos["final_observation"]`` has the observations before the reset, of every
copy; in other steps it is not there, and ``obs`` is what the actions led to.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..._base.arguments import fail
from ..tensor.base import TensorStep
from .spaces import actions_of, device_of


class ManiSkill:
    """A ``ManiSkillVectorEnv`` with observations in one tensor (obs_mode="state")."""

    def __init__(self, env: Any) -> None:
        if not getattr(env, "auto_reset", True):
            raise fail("env", "a ManiSkillVectorEnv with auto_reset=True", "one without")
        self.env = env
        core = getattr(env, "base_env", env)
        self.num_envs, self.device = int(env.num_envs), device_of(core.device)
        self.single_observation_space = env.single_observation_space
        self.single_action_space = actions_of(env.single_action_space)

    def _flat(self, obs: Any) -> Tensor:
        if not isinstance(obs, Tensor):
            got = f"{type(obs).__name__}: make it with obs_mode='state'"
            raise fail("env", "observations in one tensor", got)
        return obs.reshape(self.num_envs, -1)

    def reset(self, seed: int | None = None) -> Tensor:
        """Start every copy anew; the observations [E, O]."""
        obs, _ = self.env.reset(seed=seed)
        return self._flat(obs)

    def step(self, actions: Tensor) -> TensorStep:
        """Move every copy by its action [E, A]."""
        obs, rewards, terminated, truncated, infos = self.env.step(actions)
        flat = self._flat(obs)
        final = infos.get("final_observation")
        reached = flat if final is None else self._flat(final)
        return TensorStep(flat, rewards, terminated, truncated, reached)
