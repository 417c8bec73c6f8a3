"""What an agent is made of, as everything around the training loop sees it.

``TRPO`` is the agent, with the loop; rollouts, logs, checkpoints, evaluation and export read these
parts and need no more of it.
"""

from __future__ import annotations

import abc
import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from .._base.rows import Rows
from .._base.seeds import derive, derive_all
from ..envs.gym.host import HostEnvs
from ..envs.tensor.base import TensorEnvironment
from ..learner.acting import acting_params
from ..learner.critic import Critic
from ..learner.normalise import Normaliser, RewardScaler
from ..policy.heads import Head
from ..policy.recurrent import RecurrentPolicy
from ..policy.wrappers import unwrapped
from ..updates.multiplier import Penalty
from .collect_host import HostCollector
from .collect_tensor import TensorCollector
from .config import Config
from .kl_schedule import TrustRegion
from .rollout import Rollout

if TYPE_CHECKING:  # the package is imported where gymnasium is not
    from gymnasium import Env
    from gymnasium.vector import VectorEnv

# A gymnasium id, a function that makes an environment, or an object that holds copies of one.
EnvSource: TypeAlias = (
    "str | Callable[..., Env[Any, Any]] | VectorEnv[Any, Any, Any] | TensorEnvironment"
)


class Agent(abc.ABC):
    """A policy, a critic, environments, and everything a checkpoint holds."""

    env_source: EnvSource
    env_options: dict[str, Any]
    config: Config
    device: torch.device  # of policy and critic
    generator: torch.Generator  # what training draws from
    sampler: torch.Generator  # what ``predict`` draws from, which trains nothing
    envs: HostEnvs | TensorEnvironment
    policy: nn.Module
    structured: bool | None  # whether observations stay as they are; None: where there are images
    head: Head  # of the policy's actions
    mask_width: int  # Z where the environments say which choices are allowed, else 0
    critic: Critic
    own_critic: str | None  # the class of a critic's module that was given
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

    def __repr__(self) -> str:
        config = self.config
        return (
            f"{type(self).__name__}({config.env!r}, algorithm={config.algorithm!r}, "
            f"num_envs={config.num_envs}, steps={self.steps}, updates={self.updates}, "
            f"device='{self.device}', backend={self.backend!r})"
        )

    @property
    def normaliser(self) -> Normaliser | None:
        """Running mean and deviation of the observations; None where they are taken as they are."""
        return self.collector.normaliser

    @property
    def asynchronous(self) -> bool:
        """Whether rollouts are computed on a device while the host goes on."""
        return self.collector.asynchronous and self.config.sampling != "vine"

    @property
    def recurrent(self) -> RecurrentPolicy | None:
        """The policy, if it has a memory."""
        policy = unwrapped(self.policy)
        return policy if isinstance(policy, RecurrentPolicy) else None

    def params(self, obs: Rows, mask: Tensor | None = None) -> Tensor:
        """Distribution parameters [N, D] of the policy at rows obs, as nets see them."""
        return acting_params(self.policy, obs, mask)[1]

    def start_seed(self) -> Any:
        """What the environments are reset with, another after every restart: a seed for each copy,
        or one for all where they share a generator.
        """
        if isinstance(self.envs, HostEnvs) and self.envs.takes_seeds:
            return derive_all(self.config.seed, "copies", self.envs.num_envs, self.restarts)
        return derive(self.config.seed, "batch", self.restarts)

    def start(self) -> None:
        """Reset the environments, once."""
        if not self.started:
            self.collector.start(self.start_seed())
            self.started = True

    def restart(self) -> None:
        """Start every episode anew, where those under way cannot be continued."""
        self.restarts += 1
        self.collector.start(self.start_seed())

    @abc.abstractmethod
    def collect(self, *, wait: bool = True) -> Rollout:
        """The next rollout, counted."""

    @abc.abstractmethod
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything training goes on from; all or nothing."""

    def __reduce_ex__(self, protocol: object) -> str | tuple[Any, ...]:
        """Copies and pickles would share, or lack, environments and native memory."""
        raise TypeError(
            f"{type(self).__name__}: expected save(path) and load(path), which copy all of an "
            "agent, got copy or pickle"
        )

    def close(self) -> None:
        """End the environments (worker processes, windows)."""
        self.collector.close()
