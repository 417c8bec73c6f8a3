"""A scripted environment, and the transitions that a collector should find in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trpo_fast.envs.actions import ActionMap
from trpo_fast.envs.gym.host import HostEnvs
from trpo_fast.learner.actor import Actor, ActTensors
from trpo_fast.train.collect_host import HostCollector
from trpo_fast.train.rollout import Layout, Rollout


class Scripted(Actor):
    """Values an observation (episode, step) at 100 episode + step; acts by the mask, or with
    ones.
    """

    def bind(self, tensors: ActTensors) -> Callable[[], None]:
        def act() -> None:
            tensors.actions.fill_(1)
            if tensors.mask is not None:
                tensors.actions.copy_(tensors.mask.int().argmax(-1))
            tensors.values.copy_(self.values(tensors.obs))

        return act

    def values(self, obs: Tensor) -> Tensor:
        return 100.0 * obs[:, 0] + obs[:, 1]


def collector(envs: HostEnvs, steps: int, **options: Any) -> HostCollector:
    layout = Layout(steps, envs.num_envs, envs.obs_dim, (), True, **options)
    result = HostCollector(envs, Scripted(), layout, ActionMap(envs.action_space))
    result.start(seed=0)
    return result


def transitions(rollout: Rollout) -> list[list[tuple[float, ...]]]:
    """(episode, step, reward, terminated, truncated, following) of every real row, per
    environment.
    """
    columns = torch.stack(
        (rollout.obs[..., 0], rollout.obs[..., 1], rollout.rewards, rollout.following), -1
    )
    valid = torch.ones_like(rollout.done) if rollout.valid is None else rollout.valid
    ends = torch.stack((rollout.terminated, rollout.truncated), -1)
    return [
        [
            (*c[:3].tolist(), *e.tolist(), float(c[3]))
            for c, e, v in zip(columns[:, i], ends[:, i], valid[:, i], strict=True)
            if v
        ]
        for i in range(columns.shape[1])
    ]


def expected(rows: int, length: int = 4) -> list[tuple[float, ...]]:
    """What Counting does: the value after a truncation is that of its final observation."""
    result = []
    for i in range(rows):
        episode, step = divmod(i, length)
        over, cut = step == length - 1, episode % 3 == 2
        value = 0.0 if over and not cut else 100.0 * episode + step + 1
        result.append(
            (float(episode), float(step), step + 1.0, over and not cut, over and cut, value)
        )
    return result
