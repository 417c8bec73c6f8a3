"""One time step of a rollout's buffers on the host: where observations are stored, and who acts on
them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._base.rows import map_rows
from ..envs.observations import unusable
from ..learner.actor import Actor, ActTensors
from .memory import RolloutMemory
from .rollout import Buffers


class HostRow:
    """Views of one time step of the buffers, made once: slicing tensors costs more than filling
    them.
    """

    def __init__(
        self, buffers: Buffers, t: int, actor: Actor, fused: bool, memory: RolloutMemory | None
    ) -> None:
        self.time = t
        self._take_obs(buffers, t)
        self.actions_array: np.ndarray = buffers.actions[t].numpy()
        self.rewards: np.ndarray = buffers.rewards[t].numpy()
        self.terminated: np.ndarray = buffers.terminated[t].numpy()
        self.truncated: np.ndarray = buffers.truncated[t].numpy()
        mask = None if buffers.mask is None else buffers.mask[t]
        self.mask: Any = None if mask is None else mask.numpy()
        raw, shown = (
            map_rows(lambda part: part[t], rows) for rows in (buffers.raw_obs, buffers.obs)
        )
        obs, seen = (raw, shown) if fused else (shown, None)
        chosen = buffers.actions[t], buffers.log_probs[t], buffers.values[t]
        tensors = ActTensors(obs, mask, *chosen, seen)
        self.act = actor.bind(tensors) if memory is None else memory.bind(t, tensors)

    def _take_obs(self, buffers: Buffers, t: int) -> None:
        self.raw: Any = buffers.raw_obs[t].numpy()
        self.flat = self.raw.reshape(-1)
        self.shown: Any = buffers.obs[t].numpy()

    def store(self, obs: Any) -> bool:
        """Store observations [E, O] as the environments gave them; False if some may be infinite or
        NaN, or none of their choices.
        """
        self.raw[...] = obs
        # One dot product in place of a test of every element; huge but finite values take the slow
        # path.
        return math.isfinite(self.flat.dot(self.flat))

    def show(self, obs: Any) -> None:
        """Store them as the nets see them."""
        self.shown[...] = obs


class HostRowOfParts(HostRow):
    """The same for observations of parts."""

    def _take_obs(self, buffers: Buffers, t: int) -> None:
        self.parts = buffers.layout.parts
        self.raw = map_rows(lambda part: part[t].numpy(), buffers.raw_obs)
        self.shown = map_rows(lambda part: part[t].numpy(), buffers.obs)

    def store(self, obs: Any) -> bool:
        map_rows(np.copyto, self.raw, obs)
        return unusable(self.parts, self.raw) is None

    def show(self, obs: Any) -> None:
        map_rows(np.copyto, self.shown, obs)
