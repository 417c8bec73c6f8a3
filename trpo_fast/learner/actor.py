"""One call from observations to actions, log-probabilities and values, as a collector asks for it:
what every actor is, and the one that runs the modules.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._base.guards import outside_autocast
from .._base.options import KernelSettings
from .._base.reads import unvalidated
from .._base.rows import Rows, map_rows, one_tensor, parts_of, with_parts
from ..backends.captured import perform, records
from ..backends.fingerprint import fingerprint
from ..backends.work import Work
from ..policy.wrappers import unwrapped
from .acting import acting_params, check_acts
from .normalise import ObservationNormaliser, normalised


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


class TorchActor(Actor):
    """Acts by operators of torch, which are recorded and replayed where the device can: nothing
    that waits, and the draws of the modules.
    """

    def __init__(
        self,
        policy: nn.Module,
        critic: Any,
        generator: torch.Generator,
        *,
        normaliser: ObservationNormaliser | None = None,
        capture: bool = KernelSettings.capture,
    ) -> None:
        self.policy, self.critic, self.generator = policy, critic, generator
        self.normaliser, self._capture = normaliser, capture
        self.device = next(policy.parameters()).device
        self._shift: Tensor | None = None  # of the normaliser, and where they lie for a recording
        self._stable: tuple[Tensor, Tensor] | None = None
        self._nets: Hashable = None
        self._refusal = ""
        self.recheck_nets()

    def recheck_nets(self) -> None:
        check_acts(self.policy)
        if records(self.device):
            self._nets = self._print()
            plain = unwrapped(self.policy) is self.policy
            self._refusal = "" if plain else "the policy is within a wrapper"

    def _print(self) -> Hashable:
        """What of the nets decides which operators acting takes, and on what memory."""
        critic = self.critic
        places = (critic.mean.data_ptr(), critic.std.data_ptr(), id(self.generator))
        return (fingerprint(self.policy), type(critic), fingerprint(critic.net), places)

    def seen(self, obs: Rows) -> Rows:
        """What the nets see of observations."""
        if self.normaliser is None:
            return obs
        shift, scale = self._followed(self.normaliser)
        shown: Tensor = normalised(one_tensor(obs), shift, scale, self.normaliser.clip)
        return shown

    def _followed(self, normaliser: ObservationNormaliser) -> tuple[Tensor, Tensor]:
        """Shift and scale on the nets' device, where they lie for good."""
        if self._stable is None:
            with torch.inference_mode(False):
                room = (torch.empty_like(normaliser.shift, device=self.device) for _ in range(2))
                self._stable = (next(room), next(room))
        if self._shift is not normaliser.shift:
            self._stable[0].copy_(normaliser.shift)
            self._stable[1].copy_(normaliser.scale)
            self._shift = normaliser.shift
        return self._stable

    def _places(self) -> Hashable:
        return self._stable and self._stable[0].data_ptr()

    @outside_autocast
    @torch.no_grad()
    def _performed(
        self,
        run: Callable[[Mapping[str, Tensor]], tuple[Tensor, ...]],
        inputs: Mapping[str, Tensor],
        into: tuple[Tensor, ...],
    ) -> None:
        """Write what ``run`` makes of the inputs; a replay where there is one."""
        clip = None
        if self.normaliser is not None:
            self._followed(self.normaliser)  # before: in a replay they are read where they lie
            clip = self.normaliser.clip

        def ahead_of_it(given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            infer = torch.inference_mode(self._may_infer())  # which turns gradients on if it is off
            with unvalidated(self.device), infer, torch.no_grad():
                return run(given)

        options = (self._nets, clip, self._places())
        work = Work(
            self.policy,
            "acting",
            options,
            inputs,
            (),
            ahead_of_it,
            unrecordable=self._refusal,
            generators=(self.generator,),
            into=into,
            owner_print=(),  # it is in the options, made once a rollout
        )
        perform(work, capture=self._capture)

    def _may_infer(self) -> bool:
        """Whether tensors may be those of torch.inference_mode(), which no recording can write."""
        return torch.is_inference_mode_enabled() and not records(self.device)


class ModuleActor(TorchActor):
    """Acts by running the torch modules; observations may lie on another device than the policy."""

    def bind(self, tensors: ActTensors) -> Callable[[], None]:
        self.recheck_nets()
        names = [name for name, _ in parts_of(tensors.obs)]
        chosen = (tensors.actions, tensors.log_probs, tensors.values)
        shown = tensors.seen is not None and self.normaliser is not None
        into = (*(part for _, part in parts_of(tensors.seen)), *chosen) if shown else chosen

        def run(given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            rows = with_parts(tensors.obs, iter([given[name] for name in names]))
            obs = self.seen(rows)
            head, params = acting_params(self.policy, obs, given.get("mask"))
            actions = head.sample(params, self.generator)
            found = (actions, head.log_prob(params, actions), self.critic.values(obs))
            return (*(part for _, part in parts_of(obs)), *found) if shown else found

        def act() -> None:
            inputs = {name: part.to(self.device) for name, part in parts_of(tensors.obs)}
            if tensors.seen is not None and not shown:
                map_rows(torch.Tensor.copy_, tensors.seen, tensors.obs)
            if tensors.mask is not None:
                inputs["mask"] = tensors.mask.to(self.device)
            self._performed(run, inputs, into)

        return act

    def _moved(self, obs: Rows) -> Rows:
        moved: Rows = map_rows(lambda part: part.to(self.device), obs)
        return moved

    @torch.no_grad()
    def values(self, obs: Rows) -> Tensor:
        found: Tensor = self.critic.values(self.seen(self._moved(obs)))
        return found.to(next(parts_of(obs))[1].device)
