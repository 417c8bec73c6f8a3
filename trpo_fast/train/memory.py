"""What a policy and a critic remember while a collector steps, and between its rollouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._base.arguments import check_array, fail
from ..learner.actor import ActTensors
from ..learner.recurrent import Memory, RecurrentActor
from .rollout import Layout


class RolloutMemory:
    """States before each of T rows of E copies and after the last, and which rows begin an episode.

    A rollout goes on where the one before ended, whether that was whole or interrupted: with the
    state that its last step left, though the parameters have moved since.
    """

    def __init__(self, layout: Layout, actor: RecurrentActor) -> None:
        self.actor, steps, envs = actor, layout.steps, layout.envs
        place: dict[str, Any] = {"device": layout.device}
        shape = (steps + 1, envs, actor.state_size)
        self.states = torch.zeros(shape, dtype=layout.dtype, **place)  # [T + 1, E, K]
        self.starts = torch.zeros(steps, envs, dtype=torch.bool, **place)  # [T, E]
        self.started = torch.ones(envs, dtype=torch.bool, **place)  # [E]: of the coming rows
        self.taken = 0  # rows since the rollout began

    def bind(self, t: int, tensors: ActTensors) -> Callable[[], None]:
        """Acting in row t."""
        memory = Memory(self.starts[t], self.states[t], self.states[t + 1])
        return self.actor.remembering(tensors, memory)

    def reset(self) -> None:
        """Every copy begins an episode."""
        self.taken = 0
        self.states[0].zero_()
        self.started.fill_(True)

    def open(self) -> None:
        """A rollout begins."""
        self.states[0].copy_(self.states[self.taken])
        self.taken = 0

    def begin(self, t: int) -> None:
        """Row t is acted in next."""
        self.starts[t].copy_(self.started)

    def stepped(self, started: Tensor) -> None:
        """The environments have taken a step; copies [E] bool begin an episode with the next."""
        self.taken += 1
        self.started.copy_(started)

    def params(self, obs: Any, mask: Tensor | None) -> Tensor:
        """Distribution parameters [E, D] at what followed the last row."""
        policy, size = self.actor.policy, self.actor.policy_size
        before, starts = self.states[self.taken].to(obs.device), self.started.to(obs.device)
        return policy.step(obs, before[:, :size], starts, mask)[0]

    def last_values(self, obs: Any) -> Tensor:
        """Values [E] of what followed the last row."""
        return self.actor.values_after(obs, self.states[self.taken])

    def values_after(self, times: Any, copies: Any, obs: Any) -> Tensor:
        """Values [N] of observations [N, O] that followed some rows."""
        after = self.states[1:]
        return self.actor.values_after(obs, after[times, copies])

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        return {"memory": self.states[self.taken].clone(), "started": self.started.clone()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave, [E, K] and [E]."""
        for name in ("memory", "started"):
            if name not in state:
                raise fail(f"state: {name}", "one, as the policy has a memory", "none")
        held, started = self.states[0], self.started
        memory = check_array("state: memory", state["memory"], tuple(held.shape), held.dtype)
        begun = check_array("state: started", state["started"], tuple(started.shape), torch.bool)
        self.taken = 0
        held.copy_(memory)
        started.copy_(begun)


def memory_of(layout: Layout, actor: Any) -> RolloutMemory | None:
    """The memory of a collector whose actor has one."""
    return RolloutMemory(layout, actor) if isinstance(actor, RecurrentActor) else None
