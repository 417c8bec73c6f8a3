"""What collecting leaves: T steps of E environment copies in buffers that are allocated once.

A ``Rollout`` is views of the buffers: rows in time order, values beside them, and the value of what
followed each row, so that an update needs nothing else. ``EpisodeLog`` reads returns and lengths of
whole episodes off rollouts, outside the step loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._base.rows import Rows, map_rows
from ..learner.advantage import episode_steps

Ended = Callable[[], tuple[list[float], list[int]]]


@dataclass
class Rollout:
    """T x E rows. The tensors are views of the collector's buffers: use them before the next
    rollout.
    """

    obs: Rows  # [T, E, O] as the policy saw them, or the parts of them [T, E, ...]
    raw_obs: Rows  # [T, E, O] as the environment gave them; the same tensor without normalisation
    actions: Tensor  # [T, E, ...]
    log_probs: Tensor  # [T, E]
    values: Tensor  # [T, E]
    rewards: Tensor  # [T, E]
    terminated: Tensor  # [T, E] bool
    truncated: Tensor  # [T, E] bool
    following: Tensor  # [T, E] value of what came after the row, zero after a termination
    elapsed: Tensor  # [E] steps of the episodes under way before the first row; on the host
    mask: Tensor | None = None  # [T, E, Z] bool
    valid: Tensor | None = (
        None  # [T, E] bool, False on reset steps; None where every row is a transition
    )
    starts: Tensor | None = None  # [T, E] bool: first rows of episodes, for nets with a memory
    states: Tensor | None = None  # [T + 1, E, K]: what they remember before each row
    returns: list[float] = field(default_factory=list)  # of the episodes that ended, undiscounted
    lengths: list[int] = field(default_factory=list)
    view: Any = None  # what the critic saw, a CriticView, where that is not what the policy saw
    ended: Ended | None = None  # gives both where they are not on the host yet; waits for them

    def read_episodes(self) -> None:
        """Fill returns and lengths if they are still on the device."""
        if self.ended is not None:
            (self.returns, self.lengths), self.ended = self.ended(), None

    def critic_rows(self, obs: Rows) -> Rows:
        """What the critic is fitted at: observations [N, O] of the policy, or its own [N, C]."""
        return obs if self.view is None else self.transitions(self.view.obs)

    @property
    def done(self) -> Tensor:
        return self.terminated | self.truncated

    def episode_steps(self) -> Tensor:
        """How many steps of its episode came before each row [T, E]; waits for no device."""
        elapsed, device = self.elapsed, self.rewards.device
        if device.type == "cuda":
            elapsed = elapsed.pin_memory()
        return episode_steps(self.done, elapsed.to(device, non_blocking=True), self.valid)

    def transitions(self, rows: Rows) -> Any:
        """Rows [N, ...] of tensors [T, E, ...], reset rows dropped."""
        if self.valid is None:
            return map_rows(lambda part: part.flatten(0, 1), rows)
        return map_rows(lambda part: part[self.valid], rows)

    @property
    def rows(self) -> int:
        """Transitions in the rollout."""
        return self.rewards.numel() if self.valid is None else int(self.valid.sum())


@dataclass(frozen=True)
class Layout:
    """Shapes of a rollout: what the buffers are made from."""

    steps: int  # T
    envs: int  # E
    obs_dim: int  # O
    action_shape: tuple[int, ...]
    discrete: bool
    mask_width: int = 0  # Z, or 0 without action masks
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    parts: Any = None  # of structured observations: dicts and tuples of Part; None for [O]

    def empty_obs(self) -> Any:
        """[T, E, O], or the parts [T, E, ...]."""
        if self.parts is None:
            return self.empty(self.obs_dim)
        return map_rows(lambda part: self.empty(*part.shape, dtype=part.kind), self.parts)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.zeros(
            self.steps, self.envs, *shape, dtype=dtype or self.dtype, device=self.device
        )


class Buffers:
    """The tensors of a rollout, on the host or the device."""

    def __init__(self, layout: Layout, normalised: bool) -> None:
        self.layout = layout
        self.raw_obs: Any = layout.empty_obs()
        self.obs = layout.empty_obs() if normalised else self.raw_obs
        kind = torch.int64 if layout.discrete else layout.dtype
        self.actions = layout.empty(*layout.action_shape, dtype=kind)
        self.log_probs, self.values = layout.empty(), layout.empty()
        self.rewards = layout.empty()
        self.terminated = layout.empty(dtype=torch.bool)
        self.truncated = layout.empty(dtype=torch.bool)
        self.mask: Tensor | None = None
        if layout.mask_width:
            self.mask = layout.empty(layout.mask_width, dtype=torch.bool)

    def rollout(self, following: Tensor, elapsed: Tensor, **extra: Any) -> Rollout:
        return Rollout(
            self.obs,
            self.raw_obs,
            self.actions,
            self.log_probs,
            self.values,
            self.rewards,
            self.terminated,
            self.truncated,
            following,
            elapsed,
            self.mask,
            **extra,
        )


class EpisodeLog:
    """Returns and lengths of episodes, from rollouts: no bookkeeping inside the step loop.

    ``open`` comes before a rollout's first step and ``add`` after its last. Whatever is interrupted
    on the way, no row counts twice: where it is not known what was counted, the episodes under way
    are left out.
    """

    def __init__(self, envs: int) -> None:
        self.returns = np.zeros(envs)  # so far, of the episodes under way; NaN if unknown
        self.lengths = np.zeros(envs, np.int64)
        self.is_open = False  # steps are being taken, and none of them is counted yet
        self._complete = True  # whether every step of the episodes under way was added

    def open(self) -> None:
        """Steps will be taken; those of an earlier rollout that was never added are left out."""
        self.drop_uncounted()
        self._complete, self.is_open = False, True

    def elapsed(self) -> Tensor:
        """Steps so far [E] of the episodes under way, on the host."""
        return torch.tensor(self.lengths, device="cpu")

    def drop_uncounted(self) -> None:
        """Leave out the episodes under way if some of their steps may not have been counted."""
        if not self._complete:
            self.drop_unfinished()
            self._complete, self.is_open = True, False

    def drop_unfinished(self) -> None:
        """Leave out the episodes under way: their returns are unknown."""
        self.returns[:] = np.nan

    def add(
        self, rewards: np.ndarray, done: np.ndarray, valid: np.ndarray | None
    ) -> tuple[list[float], list[int]]:
        """Account for a rollout [T, E]; the returns and lengths of the episodes that ended in
        it, in time order. Rewards that are not finite count as none: nothing learns from their
        rollout, and the sums would never recover.
        """
        self._complete, self.is_open = False, False
        ended = self._add(rewards, done, valid) if len(rewards) else ([], [])
        self._complete = True
        return ended

    def _add(
        self, rewards: np.ndarray, done: np.ndarray, valid: np.ndarray | None
    ) -> tuple[list[float], list[int]]:
        rewards = np.where(np.isfinite(rewards), rewards, 0.0)
        counted = np.ones(rewards.shape, np.int64) if valid is None else valid.astype(np.int64)
        unknown = np.isnan(self.returns)
        total = np.where(unknown, 0.0, self.returns) + np.cumsum(rewards, axis=0, dtype=np.float64)
        steps = self.lengths + np.cumsum(counted, axis=0)
        env, time = np.nonzero(done.T)
        ended_return, ended_length = total[time, env], steps[time, env]
        first = np.ones(len(env), bool)
        first[1:] = env[1:] != env[:-1]
        before = np.where(
            first, 0.0, np.concatenate(([0.0], ended_return[:-1])) if len(env) else 0.0
        )
        before_steps = np.where(
            first, 0, np.concatenate(([0], ended_length[:-1])) if len(env) else 0
        )
        self.returns, self.lengths = total[-1].copy(), steps[-1].copy()
        last = np.append(first[1:], True)[: len(env)]
        self.returns[env[last]] -= ended_return[last]
        self.lengths[env[last]] -= ended_length[last]
        left_out = unknown[env] & first
        unknown[env] = False
        self.returns[unknown] = np.nan
        order = np.argsort(time, kind="stable")
        order = order[~left_out[order]]
        return (ended_return - before)[order].tolist(), (ended_length - before_steps)[
            order
        ].tolist()
