"""A few copies of an environment, stepped one after the other by gymnasium's ``SyncVectorEnv``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import WorkerError, describe_step, shape_error
from ..gym.access import Copies
from .shared import SharedArrays


class Chunk(Copies):
    """Neighbouring copies that one process steps; results go to the shared arrays.

    A copy sees the same calls with the same arguments as in one large vector environment.
    """

    def __init__(self, makers: Sequence[Callable[[], Any]]) -> None:
        from gymnasium.vector import AutoresetMode, SyncVectorEnv

        self.venv = SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
        super().__init__(self.venv.envs)
        self.spaces = self.venv.single_observation_space, self.venv.single_action_space

    def attach(self, arrays: SharedArrays, first: int) -> None:
        """Use the rows from ``first`` on of the shared arrays."""
        self.first, rows = first, slice(first, first + self.venv.num_envs)
        self.actions, self.obs, self.final_obs, self.rewards, self.terminated, self.truncated = (
            array[rows]
            for array in (
                arrays.actions,
                arrays.obs,
                arrays.final_obs,
                arrays.rewards,
                arrays.terminated,
                arrays.truncated,
            )
        )

    def step(self) -> Any:
        """Take the actions of the shared arrays; the action masks, or None where there are none."""
        actions = self.actions.copy()  # environments may keep theirs; the shared ones change
        try:
            obs, rewards, terminated, truncated, infos = self.venv.step(actions)
        except ValueError as error:
            raise WorkerError(describe_step(error, self.venv, self.first)) from error
        self.obs[...] = obs.reshape(self.obs.shape)
        self.rewards[...], self.terminated[...] = rewards, terminated
        self.truncated[...] = truncated
        if "final_obs" in infos:
            for i in np.flatnonzero(infos["_final_obs"]):
                final = infos["final_obs"][i]
                if why := shape_error(final, self.spaces[0].shape, f" from copy {self.first + i}"):
                    raise WorkerError(why)
                self.final_obs[i] = np.asarray(final).reshape(-1)
        return infos.get("action_mask")

    def reset(self, seeds: Any) -> Any:
        """Start an episode in every copy; the action masks."""
        try:
            obs, infos = self.venv.reset(seed=seeds)
        except ValueError as error:
            raise WorkerError(describe_step(error, self.venv, self.first)) from error
        self.obs[...] = obs.reshape(self.obs.shape)
        return infos.get("action_mask")

    def close(self) -> None:
        self.venv.close()
