"""``RecurrentPolicy``: a policy that remembers, over sequences of rows and step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .._base.arguments import (
    check_choice,
    check_count,
    check_counts,
    check_device,
    check_dtype,
    check_number,
    fail,
)
from .._base.choices import Activation, RecurrentKind
from .._base.net_options import PolicySettings
from .cells import CELLS, RecurrentCell
from .flat import flat_params
from .heads import Head, check_is_head
from .net import MLPPolicy, drawn_for, mlp
from .stock import ACTIVATION_MODULES, altered, hooks_for_all_modules, own_forward


class RecurrentPolicy(nn.Module):
    """An MLP, a GRU or LSTM, another MLP, and an action head.

    It is called on S sequences of T steps, obs [S, T, O], and gives a distribution over their S T
    rows, sequence after sequence, as a ``Batch`` with ``sequence_length`` holds them. starts [S, T]
    bool: before which steps an episode begins, so that the state is zeroed. state [S, K] is that
    before the first step; gradients end there. ``cell`` has the parameters of a one-layer
    ``nn.GRU`` or ``nn.LSTM`` and loads either's ``state_dict``; an LSTM's state is (h, c) in one.

    >>> policy = RecurrentPolicy(obs_dim=11, head=Gaussian(3), cell="gru", width=64)
    >>> policy(torch.zeros(5, 20, 11)).sample().shape
    torch.Size([100, 3])
    >>> params, state = policy.step(torch.zeros(5, 11), policy.initial_state(5))
    """

    def __init__(
        self,
        obs_dim: int,
        head: Head,
        cell: RecurrentKind = "gru",
        width: int = 64,
        *,
        encoder: Sequence[int] = (),
        hidden: Sequence[int] = (),
        activation: Activation = PolicySettings.activation,
        output_gain: float = 0.01,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_is_head(head)
        check_choice("cell", cell, get_args(RecurrentKind))
        check_number("output_gain", output_gain)
        check_dtype("dtype", dtype)
        check_device("device", device)
        before = (check_count("obs_dim", obs_dim), *check_counts("encoder", encoder))
        after = (check_count("width", width), *check_counts("hidden", hidden), head.outputs)
        self.obs_dim, self.kind, self.activation = before[0], cell, activation
        self.encoder_widths, self.hidden = before[1:], after[1:-1]
        with drawn_for(device):  # and in float32 for a dtype: the same numbers whatever they are
            drawn = None if dtype is None else torch.float32
            gain = math.sqrt(2.0)
            gains = {"hidden_gain": gain, "output_gain": gain}
            self.encoder = mlp(before, activation, **gains, dtype=drawn)
            if before[1:]:
                self.encoder.append(ACTIVATION_MODULES[activation]())
            self.cell: RecurrentCell = CELLS[cell](before[-1], width, drawn)
            gains["output_gain"] = output_gain
            self.net = mlp(after, activation, **gains, dtype=drawn)
        self.head = head
        self._made_of = _parts(self)
        self.to(device=device, dtype=dtype)
        flat_params(self)

    def own_forward(self) -> str:
        """In which way ``policy(obs)`` may be another distribution than that of
        ``distribution_params``, in words; empty if in none.
        """
        return own_forward(self, _STOCK)

    def departure(self) -> str:
        """What was overridden, replaced, hooked, frozen, tied, added or removed, in words; empty if
        nothing was, so that the hand-written derivatives are this policy's.
        """
        return hooks_for_all_modules() or self._changed()

    def follows_spec(self) -> bool:
        """Whether the arguments it was made with say all of the policy beside its parameters."""
        return not self._changed()

    def _changed(self) -> str:
        if reason := self.own_forward():
            return reason
        if type(self) is not RecurrentPolicy:
            return f"{type(self).__name__} may have methods of its own"
        if _parts(self) != self._made_of:
            return "layers or their settings were changed"
        for name, module in self.named_modules():
            if name and (reason := altered(name, module.__dict__)):
                return reason
        if not all(p.requires_grad for p in self.parameters()):
            return "parameters are frozen"
        held = sum(p is not None for m in self.modules() for p in m._parameters.values())
        return "" if held == len(list(self.parameters())) else "parameters are tied"

    @property
    def state_size(self) -> int:
        """K, the numbers of one sequence's state."""
        return self.cell.state_size

    def initial_state(self, sequences: int) -> Tensor:
        """Zeros [S, K]: the state in which episodes begin."""
        return self.cell.weight_hh_l0.new_zeros(sequences, self.state_size)

    def outputs(
        self, obs: Tensor, starts: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(what the last layer gives [S T, Z], the state after the last step [S, K])."""
        if obs.ndim < 3:
            raise fail("obs", "sequences [S, T, ...]", f"shape {list(obs.shape)}")
        sequences, steps = obs.shape[:2]
        if starts is None:
            starts = torch.zeros(sequences, steps, dtype=torch.bool, device=obs.device)
        state = self.initial_state(sequences) if state is None else state.detach()
        x = obs.reshape(sequences, steps, -1).transpose(0, 1)  # the cell takes time first
        shown, last = self.cell(self.encoder(x), starts.t(), state)
        return self.net(shown).transpose(0, 1).flatten(0, 1), last

    def distribution_params(
        self,
        obs: Tensor,
        starts: Tensor | None = None,
        state: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> Tensor:
        """Distribution parameters [S T, D] at obs [S, T, O]; action_mask [S T, Z] bool."""
        z = self.outputs(obs, starts, state)[0]
        return self.head.distribution_params(z, mask=action_mask)

    def step(
        self,
        obs: Tensor,
        state: Tensor,
        starts: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One step of N sequences: (distribution parameters [N, D], the states after it [N, K])
        for obs [N, O], states [N, K], starts [N] bool.
        """
        if starts is None:
            starts = torch.zeros(obs.shape[0], dtype=torch.bool, device=obs.device)
        shown, after = self.cell.step(self.encoder(obs.flatten(1)), starts, state)
        z = self.net(shown)
        return self.head.distribution_params(z, mask=action_mask), after

    def forward(
        self,
        obs: Tensor,
        starts: Tensor | None = None,
        state: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> Distribution:
        """The torch distribution of the actions at obs [S, T, O], of S T rows, sequence after
        sequence; starts [S, T] bool, state [S, K], action_mask [S T, Z] bool, True = allowed.
        """
        return self.head.distribution(self.distribution_params(obs, starts, state, action_mask))

    if TYPE_CHECKING:  # torch calls forward, and says Any

        def __call__(
            self,
            obs: Tensor,
            starts: Tensor | None = None,
            state: Tensor | None = None,
            action_mask: Tensor | None = None,
        ) -> Distribution: ...


# Methods as they are defined here and by torch; a policy that has others is run as a module.
_STOCK: dict[str, Callable[..., Any]] = {
    name: getattr(RecurrentPolicy, name) for name in ("__call__", "forward")
}


def _parts(policy: nn.Module) -> list[tuple[str, type, str]]:
    """Names, classes and settings of a policy's modules."""
    return [(name, type(part), part.extra_repr()) for name, part in policy.named_modules()]


def packaged_head(policy: nn.Module) -> Head | None:
    """The head of a policy of this package whose ``forward`` is its head's distribution at its
    ``distribution_params``; None for any other module.
    """
    if isinstance(policy, MLPPolicy | RecurrentPolicy) and not policy.own_forward():
        return policy.head
    return None
