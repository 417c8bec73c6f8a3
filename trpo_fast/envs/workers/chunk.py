"""A few copies of an environment, stepped one after the other by gymnasium's ``SyncVectorEnv``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..._base.rows import map_rows
from ..errors import WorkerError, describe_step, shape_error
from ..gym.access import Copies
from .shared import SharedArrays


def _fill(kept: np.ndarray, part: np.ndarray) -> None:
    kept[...] = part.reshape(kept.shape)


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
        self.actions, self.rewards, self.terminated, self.truncated = (
            array[rows]
            for array in (arrays.actions, arrays.rewards, arrays.terminated, arrays.truncated)
        )
        self.obs, self.final_obs = (
            map_rows(lambda array: array[rows], parts) for parts in (arrays.obs, arrays.final_obs)
        )

    def step(self) -> Any:
        """Take the actions of the shared arrays; the action masks, or None where there are none."""
        actions = self.actions.copy()  # environments may keep theirs; the shared ones change
        try:
            obs, rewards, terminated, truncated, infos = self.venv.step(actions)
        except ValueError as error:
            raise WorkerError(describe_step(error, self.venv, self.first)) from error
        map_rows(_fill, self.obs, obs)
        self.rewards[...], self.terminated[...] = rewards, terminated
        self.truncated[...] = truncated
        if "final_obs" in infos:
            for i in np.flatnonzero(infos["_final_obs"]):
                self._keep_final(int(i), infos["final_obs"][i])
        return infos.get("action_mask")

    def _keep_final(self, i: int, final: Any) -> None:
        if isinstance(self.final_obs, np.ndarray):
            wanted = self.spaces[0].shape
            if why := shape_error(final, wanted, f" from copy {self.first + i}"):
                raise WorkerError(why)
        map_rows(lambda kept, part: _fill(kept[i : i + 1], np.asarray(part)), self.final_obs, final)

    def reset(self, seeds: Any) -> Any:
        """Start an episode in every copy; the action masks."""
        try:
            obs, infos = self.venv.reset(seed=seeds)
        except ValueError as error:
            raise WorkerError(describe_step(error, self.venv, self.first)) from error
        map_rows(_fill, self.obs, obs)
        return infos.get("action_mask")

    def close(self) -> None:
        self.venv.close()
