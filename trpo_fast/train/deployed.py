"""A trained policy as a module of its own: observations in, actions in the environment's units out.

Normalisation, the most likely action, clipping or squashing and scaling are all inside.
"""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor, nn

from .._base.rows import map_rows
from ..learner.acting import acting_params, check_acts
from ..learner.normalise import ObservationNormaliser, normalised
from ..policy.net import MLPPolicy
from ..policy.recurrent import RecurrentPolicy
from ..policy.wrappers import unwrapped
from .agent import Agent


class Deployed(nn.Module):
    """obs [N, O], or dicts and tuples of tensors [N, ...] (and mask [N, Z] where actions are
    masked) -> actions [N, ...] of the space's shape and type, on the CPU.
    """

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        import copy

        policy = unwrapped(agent.policy)
        check_acts(policy)
        self.policy: Any = copy.deepcopy(policy).cpu().float()
        packaged = isinstance(self.policy, MLPPolicy | RecurrentPolicy)
        self.head: Any = self.policy.head if packaged else agent.head
        self.action_map = agent.collector.action_map
        self.clip: float | None = None
        self.vectors: Any = None  # the names of the buffers of every part's normaliser, or None
        normaliser = agent.normaliser
        if normaliser is None:
            return
        self.clip = normaliser.clip
        if isinstance(normaliser, ObservationNormaliser):
            self.vectors = self._kept(normaliser, "")
        else:
            numbers = itertools.count()
            self.vectors = map_rows(lambda one: self._kept(one, next(numbers)), normaliser.parts)

    def _kept(self, normaliser: ObservationNormaliser | None, number: Any) -> list[str] | None:
        """Keep a normaliser's numbers; the names of their buffers."""
        if normaliser is None:
            return None
        names = [f"shift{number}", f"scale{number}"]
        for name, value in zip(names, (normaliser.shift, normaliser.scale), strict=True):
            self.register_buffer(name, value.cpu().clone())
        return names

    def seen(self, obs: Any) -> Any:
        """Observations [N, O] as the policy sees them."""
        return obs if self.clip is None else map_rows(self._normalised, self.vectors, obs)

    def forward(self, obs: Any, mask: Tensor | None = None) -> Tensor:
        stored = self.head.mode(acting_params(self.policy, self.seen(obs), mask)[1])
        return self.action_map.device(stored)

    def _normalised(self, names: list[str] | None, part: Tensor) -> Tensor:
        if names is None:
            return part
        shift, scale = (self.get_buffer(name) for name in names)
        return normalised(part, shift, scale, self.clip or 0.0)


class Remembering(Deployed):
    """One step of a policy with a memory: obs [N, O], state [N, K] of the step before (zeros in the
    first), start [N] bool where an episode begins (and mask [N, Z]) -> (actions, state [N, K]).
    """

    def forward(  # type: ignore[override]
        self, obs: Tensor, state: Tensor, start: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        params, after = self.policy.step(self.seen(obs), state, start, mask)
        return self.action_map.device(self.head.mode(params)), after


class Single(nn.Module):
    """obs [O] (and mask [Z]) -> the action, of the space's shape."""

    def __init__(self, deployed: Deployed) -> None:
        super().__init__()
        self.deployed = deployed

    def forward(self, obs: Any, mask: Tensor | None = None) -> Tensor:
        found: Tensor = self.deployed(_row(obs), _row(mask))[0]
        return found


class SingleStep(Single):
    """obs [O], state [K], start [] (and mask [Z]) -> (action, state [K])."""

    def forward(  # type: ignore[override]
        self, obs: Tensor, state: Tensor, start: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        action, after = self.deployed(_row(obs), _row(state), _row(start), _row(mask))
        return action[0], after[0]


def _row(part: Any) -> Any:
    """One observation, or part of it, as one row."""
    return None if part is None else map_rows(lambda one: one[None], part)
