"""Environments with the interfaces of Isaac Lab, mjlab and ManiSkill, written after their sources:
the same members, returned values, resets and buffers that are used again; a counter for physics.

Copy i counts to i + 3, then it terminates (odd copies) or times out (even ones). Actions and noise
change nothing. A critic's group sees twice the count as well.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor


class ManagerBasedRLEnv(gymnasium.Env):
    """As of isaaclab.envs: a gymnasium.Env of many copies, whose device is a string, whose rewards
    and flags lie in buffers of its own, and which computes observations after its resets.
    """

    is_vector_env = True

    def __init__(self, num_envs: int = 4, *, compute_final_obs: bool = False) -> None:
        self.cfg = SimpleNamespace(compute_final_obs=compute_final_obs)
        self.num_envs, self.device, self.extras = num_envs, "cpu", {}
        self.copies, self.counts = torch.arange(num_envs), torch.zeros(num_envs)
        self.reward_buf = torch.zeros(num_envs)
        self.reset_terminated = torch.zeros(num_envs, dtype=torch.bool)
        self.reset_time_outs = torch.zeros(num_envs, dtype=torch.bool)
        self.seeds: list[int | None] = []
        self._configure_gym_env_spaces()

    def _configure_gym_env_spaces(self) -> None:
        box = gymnasium.spaces.Box
        self.single_observation_space = gymnasium.spaces.Dict(
            policy=box(-np.inf, np.inf, (2,)), critic=box(-np.inf, np.inf, (3,))
        )
        self.single_action_space = box(-np.inf, np.inf, (1,))
        batch = gymnasium.vector.utils.batch_space
        self.action_space = batch(self.single_action_space, self.num_envs)

    def compute(self) -> dict[str, Tensor]:
        seen = torch.stack((self.copies.float(), self.counts), 1)
        return {"policy": seen, "critic": torch.cat((seen, 2 * self.counts[:, None]), 1)}

    def reset(
        self, seed: int | None = None, env_ids: Any = None, options: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        self.seeds.append(seed)
        self.counts[:] = 0.0
        self.obs_buf = self.compute()
        return self.obs_buf, self.extras

    def step(self, action: Tensor) -> tuple[Any, ...]:
        assert action.shape == (self.num_envs, 1)
        self.counts += 1.0
        ended = self.counts >= self.copies + 3
        self.reset_time_outs[:] = ended & (self.copies % 2 == 0)
        self.reset_terminated[:] = ended & (self.copies % 2 == 1)
        self.reward_buf[:] = 1.0
        if bool(ended.any()):
            if self.cfg.compute_final_obs:
                self.extras["final_obs"] = self.compute()
            self.counts[ended] = 0.0
        self.obs_buf = self.compute()
        return (
            self.obs_buf,
            self.reward_buf,
            self.reset_terminated,
            self.reset_time_outs,
            self.extras,
        )


ManagerBasedRLEnv.__module__ = "isaaclab.envs.manager_based_rl_env"


class ManagerBasedRlEnv:
    """As of mjlab.envs: no gymnasium.Env, spaces of its own, groups "actor" and "critic"; one of
    the groups is not concatenated.
    """

    is_vector_env = True

    def __init__(self, num_envs: int = 4, *, auto_reset: bool = True) -> None:
        self.cfg = SimpleNamespace(auto_reset=auto_reset)
        self.inner = ManagerBasedRLEnv(num_envs)
        self.num_envs = num_envs
        self.single_action_space = SimpleNamespace(shape=(1,), low=-np.inf, high=np.inf)
        self.single_observation_space = SimpleNamespace(spaces={})

    @property
    def device(self) -> str:
        return "cpu"

    @property
    def unwrapped(self) -> Any:
        return self

    def _renamed(self, groups: dict[str, Tensor]) -> dict[str, Any]:
        actor = groups["policy"]
        return {"actor": {"copy": actor[:, 0], "count": actor[:, 1]}, "critic": groups["critic"]}

    def reset(
        self, *, seed: int | None = None, env_ids: Any = None, options: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        groups, extras = self.inner.reset(seed)
        return self._renamed(groups), extras

    def step(self, action: Tensor) -> tuple[Any, ...]:
        groups, *rest = self.inner.step(action)
        return self._renamed(groups), *rest


ManagerBasedRlEnv.__module__ = "mjlab.envs.manager_based_rl_env"


class ManiSkillVectorEnv(gymnasium.vector.VectorEnv):
    """As of mani_skill.vector.wrappers.gymnasium: a torch.device, same-step resets, and
    ``final_observation`` in those steps in which a copy ended.
    """

    def __init__(self, num_envs: int = 4, *, auto_reset: bool = True, state: bool = True) -> None:
        self.num_envs, self.auto_reset, self.state = num_envs, auto_reset, state
        self.inner = ManagerBasedRLEnv(num_envs)
        box = gymnasium.spaces.Box
        self.single_observation_space = box(-np.inf, np.inf, (2,))
        self.single_action_space = box(-1.0, 1.0, (1,))

    @property
    def base_env(self) -> Any:
        return SimpleNamespace(device=torch.device("cpu"), num_envs=self.num_envs)

    @property
    def device(self) -> torch.device:
        return self.base_env.device

    @property
    def unwrapped(self) -> Any:
        return self.base_env

    def _seen(self) -> Any:
        seen = self.inner.compute()["policy"]
        return seen if self.state else {"agent": seen}

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        if options is not None and "env_idx" in options:
            self.inner.counts[options["env_idx"]] = 0.0
        else:
            self.inner.counts[:] = 0.0
        return self._seen(), {}

    def step(self, actions: Any) -> tuple[Any, ...]:
        inner, infos = self.inner, {"elapsed_steps": self.inner.counts.clone()}
        inner.counts += 1.0
        ended = inner.counts >= inner.copies + 3
        cut, over = ended & (inner.copies % 2 == 0), ended & (inner.copies % 2 == 1)
        obs, rewards = self._seen(), torch.ones(self.num_envs)
        if bool(ended.any()) and self.auto_reset:
            final, index = obs, torch.arange(self.num_envs)[ended]
            obs, infos = self.reset(options={"env_idx": index})
            infos["final_observation"], infos["_final_observation"] = final, ended
        return obs, rewards, over, cut, infos


ManiSkillVectorEnv.__module__ = "mani_skill.vector.wrappers.gymnasium"
