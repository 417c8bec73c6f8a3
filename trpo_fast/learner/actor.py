"""One call from observations to actions, log-probabilities and values, as a collector asks for it:
what every actor is, and the one that runs the modules.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._base.guards import outside_autocast
from .._base.rows import Rows, map_rows, parts_of
from .acting import acting_params, check_acts
from .normalise import ObservationNormaliser


class ActTensors(NamedTuple):
    """What acting for E environments reads and writes."""

    obs: Any  # [E, O]; for modules also dicts and tuples of tensors [E, ...]
    mask: Tensor | None  # [E, Z] bool, or None
    actions: Tensor  # [E, ...], written
    log_probs: Tensor  # [E], written
    values: Tensor  # [E], written
    seen: Any = None  # as obs, written: the observations as the nets saw them


class Actor(abc.ABC):
    """Chooses actions and values observations.

    One with a ``normaliser`` takes raw observations and leaves what its nets saw in
    ``ActTensors.seen``; the others take what the nets are to see.
    """

    normaliser: ObservationNormaliser | None = None

    @abc.abstractmethod
    def bind(self, tensors: ActTensors) -> Callable[[], None]:
        """``act`` on these tensors, to be called as often as obs is filled: they are checked here
        and not again.
        """

    @abc.abstractmethod
    def values(self, obs: Any) -> Tensor:
        """Values [N] of observations [N, O], on the device the observations came from."""

    def recheck_nets(self) -> None:  # noqa: B027 - modules need nothing
        """Follow parameters or modules of the nets that were replaced since the last call.
        Collectors call this once a rollout; ``bind`` and ``values`` do so themselves, what ``bind``
        returned does not.
        """

    def act(self, tensors: ActTensors) -> None:
        """Write actions, log-probabilities and values for the observations. ``bind`` is for
        callers that act on the same tensors again and again.
        """
        self.bind(tensors)()


class ModuleActor(Actor):
    """Acts by running the torch modules; observations may lie on another device than the policy."""

    def __init__(self, policy: nn.Module, critic: Any, generator: torch.Generator) -> None:
        self.policy, self.critic, self.generator = policy, critic, generator
        self.device = next(policy.parameters()).device
        self.recheck_nets()

    def recheck_nets(self) -> None:
        check_acts(self.policy)

    def bind(self, tensors: ActTensors) -> Callable[[], None]:
        self.recheck_nets()

        @outside_autocast
        @torch.no_grad()
        def act() -> None:
            obs, mask = self._moved(tensors.obs), tensors.mask
            if tensors.seen is not None:
                map_rows(torch.Tensor.copy_, tensors.seen, obs)
            allowed = None if mask is None else mask.to(self.device)
            head, params = acting_params(self.policy, obs, allowed)
            chosen = head.sample(params, self.generator)
            tensors.actions.copy_(chosen)
            tensors.log_probs.copy_(head.log_prob(params, chosen))
            tensors.values.copy_(self.critic.values(obs))

        return act

    def _moved(self, obs: Rows) -> Rows:
        moved: Rows = map_rows(lambda part: part.to(self.device), obs)
        return moved

    @torch.no_grad()
    def values(self, obs: Rows) -> Tensor:
        found: Tensor = self.critic.values(self._moved(obs))
        return found.to(next(parts_of(obs))[1].device)
