"""What an agent is made of, as everything around the training loop sees it.

``TRPO`` is the agent, with the loop; rollouts, logs, checkpoints, evaluation and export read these
parts and need no more of it.
"""

from __future__ import annotations

import abc
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..envs.gym.host import HostEnvs
from ..envs.tensor.base import TensorEnvironment
from ..learner.critic import Critic
from ..learner.normalise import ObservationNormaliser, RewardScaler
from ..policy.net import MLPPolicy
from ..updates.penalty import Penalty
from .collect_host import HostCollector
from .collect_tensor import TensorCollector
from .config import Config
from .kl_schedule import TrustRegion
from .rollout import Rollout


class Agent(abc.ABC):
    """A policy, a critic, environments, and everything a checkpoint holds."""

    env_source: Any  # what the environments were made from: an id, a function, an object
    env_options: dict[str, Any]
    config: Config
    device: torch.device  # of policy and critic
    generator: torch.Generator  # what training draws from
    sampler: torch.Generator  # what ``predict`` draws from, which trains nothing
    envs: HostEnvs | TensorEnvironment
    policy: MLPPolicy
    critic: Critic
    collector: HostCollector | TensorCollector
    penalty: Penalty
    trust_region: TrustRegion
    reward_scaler: RewardScaler | None
    steps: int  # of all environments together
    updates: int
    episodes: int
    restarts: int  # times that episodes were started anew because their states could not be saved
    recent_returns: deque[float]
    recent_lengths: deque[int]
    started: bool  # whether the environments were reset
    backend: str  # of the last update, once there was one

    @property
    def normaliser(self) -> ObservationNormaliser | None:
        """Running mean and deviation of the observations; None where they are taken as they are."""
        return self.collector.normaliser

    @property
    def asynchronous(self) -> bool:
        """Whether rollouts are computed on a device while the host goes on."""
        return self.collector.asynchronous and self.config.sampling != "vine"

    @abc.abstractmethod
    def collect(self, *, wait: bool = True) -> Rollout:
        """The next rollout, counted."""

    @abc.abstractmethod
    def predict(
        self, obs: Any, *, deterministic: bool = True, action_mask: Any = None
    ) -> np.ndarray | Tensor:
        """The action for one observation, or one for each of a batch."""

    def __reduce_ex__(self, protocol: object) -> str | tuple[Any, ...]:
        """Copies and pickles would share, or lack, environments and native memory."""
        raise TypeError(
            f"{type(self).__name__}: expected save(path) and load(path), which copy all of an "
            "agent, got copy or pickle"
        )

    def close(self) -> None:
        """End the environments (worker processes, windows)."""
        self.collector.close()
