"""The protocol of an environment whose state is a batch of tensors, and the part every one of ours
shares.

A tensor environment steps all its copies at once, on any device, without a host sync. Anything with
the members of ``TensorEnvironment`` can be trained on and evaluated. Optional are

    state() -> dict, load_state(dict) -> obs       for bit-exact resume
    critic_obs() -> [E, C] and                     for a critic that sees more than the policy:
    single_critic_observation_space, a flat Box    of the present state of every copy

``docs/simulators.md`` has the whole of it in words.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..._base.threads import OneThread

THREADED_COPIES = 32768  # copies from which an operator on them is worth several threads
CONTIGUOUS = torch.contiguous_format


@dataclass(frozen=True)
class TensorStep:
    """What one step of every copy gives; ``obs`` already belongs to the next episode where one
    ended.
    """

    obs: Tensor  # [E, O], the first observation of the next episode where terminated or truncated
    rewards: Tensor  # [E]
    # Flags are bool, or numbers of which those above one half are true.
    terminated: Tensor  # [E]: a terminal state, worth nothing afterwards
    truncated: Tensor  # [E]: cut by the time limit; the value of final_obs still counts
    # [E, O], the observation that the action led to. Where there is none, what follows a truncation
    # is worth what the state before it was: gamma V(s_t) is added to the reward.
    final_obs: Tensor | None
    final_rows: Tensor | None = None  # [E] flags, the rows of final_obs that hold it; None: all
    final_critic_obs: Tensor | None = None  # [E, C], as final_obs, where there is critic_obs()
    # [E] flags, false where no transition was made: the copy was reset in place of moved by its
    # action, after an episode that had ended before. None: every row is one.
    valid: Tensor | None = None


@runtime_checkable
class TensorEnvironment(Protocol):
    """What the trainer needs of a tensor environment."""

    num_envs: int
    device: torch.device

    @property
    def single_observation_space(self) -> Any:
        """The gymnasium space of one copy's observations."""
        ...

    @property
    def single_action_space(self) -> Any:
        """The gymnasium space of one copy's actions."""
        ...

    def reset(self, seed: int | None = None) -> Tensor:
        """Start every copy anew; the first observations [E, O]."""
        ...

    def step(self, actions: Tensor) -> TensorStep:
        """Move every copy by its action [E, ...], in the shape and type of the action space; copies
        that finish start a new episode in the same call.
        """
        ...


class TensorEnv:
    """Autoreset, time limit, generator and save/restore around the physics of a subclass.

    A subclass defines ``initial`` (start states), ``dynamics`` (one transition) and ``observe``,
    all batched.
    """

    state_size: int
    max_episode_steps: int

    def __init__(
        self,
        num_envs: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs: expected at least 1, got {num_envs}")
        self.num_envs = num_envs
        self.device = torch.device(device)
        self.dtype = dtype
        self.generator = torch.Generator(self.device)
        self.generator.manual_seed(seed)
        self.physics = torch.zeros(self.state_size, num_envs, dtype=dtype, device=self.device).T
        self.elapsed = torch.zeros(num_envs, dtype=torch.int64, device=self.device)

    @property
    def single_observation_space(self) -> Any:
        """The gymnasium space of one copy's observations."""
        raise NotImplementedError

    @property
    def single_action_space(self) -> Any:
        """The gymnasium space of one copy's actions."""
        raise NotImplementedError

    def initial(self, count: int) -> Tensor:
        """Start states [count, S]."""
        raise NotImplementedError

    def dynamics(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(next state [E, S], rewards [E], terminated [E] bool, or None where nothing ever
        terminates), from state [E, S] and actions [E, ...].
        """
        raise NotImplementedError

    def observe(self, state: Tensor) -> Tensor:
        """Observations [E, O] of states [E, S]."""
        raise NotImplementedError

    def uniform(self, count: int, low: float, high: float, size: int) -> Tensor:
        """Draws [count, size] from the environment's own generator."""
        draws = torch.empty(size, count, dtype=self.dtype, device=self.device)
        return draws.uniform_(low, high, generator=self.generator).T

    def reset(self, seed: int | None = None) -> Tensor:
        """Start every copy anew and return the observations [E, O]."""
        if seed is not None:
            self.generator.manual_seed(seed)
        self.physics = self.initial(self.num_envs)
        self.elapsed.zero_()
        return self.observe(self.physics)

    def step(self, actions: Tensor) -> TensorStep:
        """Move every copy by its action [E, ...]; copies that finish start a new episode in the
        same call.
        """
        if self.device.type != "cpu" or self.num_envs > THREADED_COPIES:
            return self._step(actions)
        with OneThread():
            return self._step(actions)

    def _step(self, actions: Tensor) -> TensorStep:
        state, rewards, terminated = self.dynamics(self.physics, actions)
        self.elapsed += 1
        late = self.elapsed >= self.max_episode_steps
        if terminated is None:
            terminated, truncated = torch.zeros_like(late), late
        else:
            truncated = late & ~terminated
        done = terminated | truncated
        final_obs = self.observe(state)
        # Start states are drawn for every copy, finished or not: no host sync, and the stream of
        # draws has a fixed length.
        self.physics = torch.where(done[:, None], self.initial(self.num_envs), state)
        self.elapsed.masked_fill_(done, 0)
        return TensorStep(self.observe(self.physics), rewards, terminated, truncated, final_obs)

    def sized(self, num_envs: int, *, seed: int = 0) -> TensorEnv:
        """The same kind of environment with another number of copies, which are not started yet."""
        other = copy.copy(self)
        TensorEnv.__init__(other, num_envs, device=self.device, dtype=self.dtype, seed=seed)
        return other

    def state(self) -> dict[str, Tensor]:
        """Everything the future depends on: physics [E, S], elapsed [E], the generator's state."""
        return {
            "physics": self.physics.clone(),
            "elapsed": self.elapsed.clone(),
            "generator": self.generator.get_state(),
        }

    def load_state(self, state: dict[str, Tensor]) -> Tensor:
        """Go back to a saved state and return the observations [E, O] there."""
        physics = state["physics"]
        wanted, got = list(self.physics.shape), list(physics.shape)
        if wanted != got:
            raise ValueError(f"state: expected physics of shape {wanted}, got {got}")
        self.physics = physics.to(self.device, self.dtype).T.clone(memory_format=CONTIGUOUS).T
        self.elapsed = state["elapsed"].to(self.device, copy=True)
        if "generator" in state:
            self.generator.set_state(state["generator"].cpu())
        return self.observe(self.physics)


def box(low: Any, high: Any, size: int) -> Any:
    """A float32 gymnasium Box [size]; gymnasium is imported only when a space is asked for."""
    import numpy as np
    from gymnasium.spaces import Box

    bounds = [np.broadcast_to(np.asarray(b, np.float32), (size,)).copy() for b in (low, high)]
    return Box(*bounds, dtype=np.float32)


def unbounded(size: int) -> Any:
    """A float32 gymnasium Box [size] without bounds."""
    return box(-math.inf, math.inf, size)


def columns(*parts: Tensor) -> Tensor:
    """Columns [E] side by side as [E, S], stored column by column.

    Interleaving them into rows took half the time of a whole step on a CPU.
    """
    return torch.stack(parts).T


def wrap_angle(angle: Tensor) -> Tensor:
    """The same angle in [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2.0 * math.pi) - math.pi
