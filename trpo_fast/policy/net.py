"""``MLPPolicy``: a multilayer perceptron with an action head, its parameters in one flat vector."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
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
from .._base.choices import ActionMode, Activation, Std
from .._base.net_options import PolicySettings
from .flat import flat_params
from .heads import Head, check_is_head, head_for_space, head_of_kind
from .spec import NetSpec
from .stock import ACTIVATION_MODULES, departure, hooks_for_all_modules, own_forward

# The order of enum Activation in csrc/shared/params.h.
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
_NAMES = {kind: name for name, kind in ACTIVATION_MODULES.items()}


def mlp(
    widths: Sequence[int],
    activation: str,
    *,
    hidden_gain: float,
    output_gain: float,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    """Linear maps with activations between them, orthogonal weights and zero biases."""
    check_choice("activation", activation, ACTIVATIONS)
    layers: list[nn.Module] = []
    last = len(widths) - 2
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        linear = nn.Linear(fan_in, fan_out, dtype=dtype)
        nn.init.orthogonal_(linear.weight, output_gain if i == last else hidden_gain)
        nn.init.zeros_(linear.bias)
        layers.append(linear)
        if i < last:
            layers.append(ACTIVATION_MODULES[activation]())
    return nn.Sequential(*layers)


def drawn_for(device: torch.device | str | None) -> contextlib.AbstractContextManager[Any]:
    """Where to make parameters that are moved to ``device``: on the CPU, whose generator then draws
    them, whatever torch's default device is. Without a device that default is what is asked for.
    """
    return contextlib.nullcontext() if device is None else torch.device("cpu")


class MLPPolicy(nn.Module):
    """A multilayer perceptron from observations to an action distribution.

    >>> policy = MLPPolicy(obs_dim=11, head=Gaussian(3), hidden=(64, 64), activation="tanh")
    >>> policy(torch.zeros(5, 11)).sample().shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        obs_dim: int,
        head: Head,
        hidden: Sequence[int] = PolicySettings.hidden,
        activation: Activation = PolicySettings.activation,
        *,
        output_gain: float = 0.01,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_is_head(head)
        check_number("output_gain", output_gain)
        check_dtype("dtype", dtype)
        check_device("device", device)
        inner = check_counts("hidden", hidden)
        widths = (check_count("obs_dim", obs_dim), *inner, head.outputs)
        gains = {"hidden_gain": math.sqrt(2.0), "output_gain": output_gain}
        with drawn_for(device):  # and in float32 for a dtype: the same numbers whatever they are
            drawn = None if dtype is None else torch.float32
            self.net = mlp(widths, activation, **gains, dtype=drawn)
        self.head = head
        self.spec = NetSpec(widths, activation, head.kind, head.nvec)
        self.to(device=device, dtype=dtype)
        flat_params(self)

    @classmethod
    def for_spaces(
        cls,
        observation_space: Any,
        action_space: Any,
        hidden: Sequence[int] = PolicySettings.hidden,
        activation: Activation = PolicySettings.activation,
        *,
        std: Std = PolicySettings.std,
        action_mode: ActionMode = PolicySettings.action_mode,
        **options: Any,
    ) -> MLPPolicy:
        """The policy for two gymnasium spaces; structured observations count as flattened. How its
        actions are to be mapped to a Box decides its head: Gaussian, SquashedGaussian or Beta.
        """
        from gymnasium.spaces import Space
        from gymnasium.spaces.utils import flatdim

        if not isinstance(observation_space, Space):
            raise fail("observation_space", "a gymnasium space", repr(observation_space))
        head = head_for_space(action_space, std=std, action_mode=action_mode)
        return cls(flatdim(observation_space), head, hidden, activation, **options)

    @classmethod
    def of_layers(cls, layers: Sequence[nn.Module], head: Head) -> MLPPolicy:
        """The policy of modules that exist, Linear and one kind of activation in turn, and a head.
        It holds the modules themselves, so that whoever else does shares its parameters.
        """
        linear = [layer for layer in layers[::2] if type(layer) is nn.Linear]
        kinds = {type(layer) for layer in layers[1::2]} or {nn.Identity}
        activation = _NAMES.get(kinds.pop())
        if kinds or activation is None or len(layers) != 2 * len(linear) - 1:
            wanted = f"Linear and one of {[*ACTIVATION_MODULES]} in turn, Linear at both ends"
            raise fail("layers", wanted, [type(layer).__name__ for layer in layers])
        policy = cls.__new__(cls)
        nn.Module.__init__(policy)
        policy.net, policy.head = nn.Sequential(*layers), head
        widths = (linear[0].in_features, *(layer.out_features for layer in linear))
        policy.spec = NetSpec(widths, activation, head.kind, head.nvec)
        flat_params(policy)
        return policy

    @classmethod
    def of_spec(cls, spec: NetSpec) -> MLPPolicy:
        """The policy of a spec without memory for parameters, for what needs its shape alone."""
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(spec.widths):
            layers.append(nn.Linear(fan_in, fan_out, device="meta"))
            layers.append(ACTIVATION_MODULES[spec.activation]())
        head = head_of_kind(spec.head, spec.widths[-1], spec.nvec)
        policy = cls.of_layers(layers[:-1], head.to("meta"))
        policy.spec = spec  # of one map there is no activation to be seen
        return policy

    def departure(self) -> str:
        """What of the policy ``spec`` does not say, in words: what is overridden, replaced, hooked,
        frozen, tied, added or removed. Empty if nothing is. The stages and kernels compute from the
        spec, so only a policy that departs in nothing is for them.
        """
        return hooks_for_all_modules() or departure(self, _STOCK)

    def own_forward(self) -> str:
        """In which way ``policy(obs)`` may be another distribution than that of
        ``distribution_params``, in words; empty if in none.
        """
        return own_forward(self, _STOCK)

    def follows_spec(self) -> bool:
        """Whether ``spec`` says all of the policy that a checkpoint must know beside its
        parameters.
        """
        return not departure(self, _STOCK)

    def distribution_params(self, obs: Tensor, action_mask: Tensor | None = None) -> Tensor:
        """Distribution parameters [N, D] at obs [N, O]; action_mask [N, Z] bool, True = allowed."""
        return self.head.distribution_params(self.net(obs), mask=action_mask)

    def forward(self, obs: Tensor, action_mask: Tensor | None = None) -> Distribution:
        """The torch distribution of the actions at obs [N, O]; action_mask [N, Z] bool, True =
        allowed.
        """
        return self.head.distribution(self.distribution_params(obs, action_mask))

    if TYPE_CHECKING:  # torch calls forward, and says Any

        def __call__(self, obs: Tensor, action_mask: Tensor | None = None) -> Distribution: ...


# Methods as they are defined here and by torch; a policy that has others departs from its spec.
_STOCK: dict[str, Callable[..., Any]] = {
    name: getattr(MLPPolicy, name)
    for name in ("__call__", "__getattr__", "distribution_params", "forward")
}
