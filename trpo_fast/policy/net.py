"""Policies: a multilayer perceptron with an action head, and the one flat vector that holds its
parameters.

``flat_params(module)`` is a view [P] of every parameter in order: W1, b1, ..., WL, bL, then
log_std. The module's own parameters are views into the same buffer, so an optimiser, a kernel and
``load_state_dict`` all write the same memory.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, get_args

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
from .._base.choices import Activation
from .._base.options import PolicySettings
from .heads import Bernoulli, Categorical, Gaussian, Head, MultiCategorical, SquashedGaussian
from .stock import ACTIVATION_MODULES, departure, hooks_for_all_modules, own_forward

# The order of enum Activation in csrc/shared/params.h.
ACTIVATIONS: tuple[str, ...] = get_args(Activation)


@dataclass(frozen=True)
class NetSpec:
    """What a kernel must know about a policy: the shape of the net and the kind of its head."""

    widths: tuple[int, ...]  # O, H1, ..., Z
    activation: str
    head: str
    nvec: tuple[int, ...] = ()

    @property
    def maps(self) -> int:
        """L, the number of linear maps."""
        return len(self.widths) - 1

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        free = self.widths[-1] if self.head == "gaussian" else 0
        return sum((i + 1) * o for i, o in pairwise(self.widths)) + free


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
        activation: str = PolicySettings.activation,
        *,
        output_gain: float = 0.01,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(head, Head):
            raise fail("head", "a head such as Gaussian(3)", repr(head))
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
        activation: str = PolicySettings.activation,
        *,
        std: str = "free",
        squash: bool = False,
        **options: Any,
    ) -> MLPPolicy:
        """The policy for two gymnasium spaces; structured observations count as flattened."""
        from gymnasium.spaces import Space
        from gymnasium.spaces.utils import flatdim

        if not isinstance(observation_space, Space):
            raise fail("observation_space", "a gymnasium space", repr(observation_space))
        head = head_for_space(action_space, std=std, squash=squash)
        return cls(flatdim(observation_space), head, hidden, activation, **options)

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


# Methods as they are defined here and by torch; a policy that has others departs from its spec.
_STOCK: dict[str, Callable[..., Any]] = {
    name: getattr(MLPPolicy, name)
    for name in ("__call__", "__getattr__", "distribution_params", "forward")
}


def head_for_space(action_space: Any, *, std: str = "free", squash: bool = False) -> Head:
    """The head for a gymnasium action space: Box, Discrete, MultiDiscrete or MultiBinary."""
    from gymnasium import spaces

    if isinstance(action_space, spaces.Box):
        dim = math.prod(action_space.shape)
        return SquashedGaussian(dim, std) if squash else Gaussian(dim, std)
    if isinstance(action_space, spaces.Discrete):
        return Categorical(int(action_space.n))
    if isinstance(action_space, spaces.MultiDiscrete):
        return MultiCategorical([int(n) for n in action_space.nvec.reshape(-1)])
    if isinstance(action_space, spaces.MultiBinary):
        return Bernoulli(math.prod(action_space.shape))
    wanted = "gymnasium's Box, Discrete, MultiDiscrete or MultiBinary"
    kind = type(action_space)
    raise fail("action_space", wanted, f"{kind.__module__}.{kind.__name__}")


def every_parameter(module: nn.Module) -> list[nn.Parameter]:
    """``list(module.parameters())`` at a sixth of its time: every operator and update asks."""
    found: dict[int, nn.Parameter] = {}
    pending: list[nn.Module | None] = [module]
    while pending:
        current = pending.pop()
        if current is None:
            continue
        for p in current._parameters.values():
            if p is not None:
                found[id(p)] = p
        if current._modules:
            pending.extend(reversed(current._modules.values()))
    return list(found.values())


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters an update moves, in the order of the flat vector."""
    return [p for p in every_parameter(module) if p.requires_grad]


class _Found(NamedTuple):
    """What ``flat_params`` found and made last, which saves most of its time at every operator;
    ``flat`` keeps the addresses from being reused.
    """

    parameters: list[nn.Parameter]
    addresses: list[int]
    flat: Tensor

    def holds(self, parameters: list[nn.Parameter]) -> bool:
        if len(parameters) != len(self.parameters):
            return False
        pairs = zip(parameters, self.parameters, strict=True)
        return (
            all([p is q and p.is_contiguous() and not p.is_neg() for p, q in pairs])
            and [p.data_ptr() for p in parameters] == self.addresses
        )


_found: weakref.WeakKeyDictionary[nn.Module, _Found] = weakref.WeakKeyDictionary()
_laying = threading.RLock()


def _after_fork() -> None:
    """A child may have been forked while another thread held the lock."""
    global _laying
    _laying = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def flat_params(module: nn.Module) -> Tensor:
    """A view [P] of the module's trainable parameters: writing it writes them, and the reverse.

    The first call (and the first after ``module.to`` has moved them) copies the parameters into one
    buffer and points them there; they stay the same ``nn.Parameter`` objects, so optimisers and
    state dicts are undisturbed.
    """
    parameters = trainable(module)
    known = _found.get(module)
    if known is None or not known.holds(parameters):
        known = _find(module, parameters)
    return known.flat.detach()


def _find(module: nn.Module, parameters: list[nn.Parameter]) -> _Found:
    """Lay the parameters out, one thread at a time: two that point them into buffers of their own
    would leave some in either.
    """
    with _laying, torch.inference_mode(False):  # a view made in there could not be written outside
        known = _found.get(module)
        while known is None or not known.holds(parameters):
            flat = _lay_flat(parameters)
            if _lies_in(flat, parameters):  # else a signal's handler has laid them elsewhere
                addresses = [p.data_ptr() for p in parameters]
                known = _found[module] = _Found(parameters, addresses, flat)
        return known


def _lay_flat(parameters: list[nn.Parameter]) -> Tensor:
    if not parameters:
        raise ValueError(
            "module: expected at least one parameter that requires a gradient, got none"
        )
    first = parameters[0]
    dtype, device = first.dtype, first.device
    if any(p.dtype != dtype or p.device != device for p in parameters):
        kinds = sorted({str((p.dtype, p.device)) for p in parameters})
        raise ValueError(f"module: expected parameters of one dtype on one device, got {kinds}")
    if any(p.is_inference() for p in parameters):
        raise ValueError(
            "module: expected parameters that can be trained, got some made under "
            "torch.inference_mode()"
        )
    size = sum(p.numel() for p in parameters)
    if not _contiguous_chain(parameters):
        flat = torch.cat([p.detach().reshape(-1) for p in parameters])
        offset = 0
        for p in parameters:
            p.data = flat[offset : offset + p.numel()].view(p.shape)
            offset += p.numel()
        return flat
    view = torch.empty(0, dtype=dtype, device=device)
    return view.set_(first.untyped_storage(), first.storage_offset(), (size,), (1,))


def _lies_in(flat: Tensor, parameters: list[nn.Parameter]) -> bool:
    """Whether they lie one after the other in ``flat``; on the meta device nothing lies at all."""
    begin = address = flat.data_ptr()
    for p in parameters:
        if begin and p.numel() and p.data_ptr() != address:
            return False
        address += p.nbytes
    return True


def _contiguous_chain(parameters: list[nn.Parameter]) -> bool:
    """Whether they lie one after the other in the first one's storage."""
    first = parameters[0]
    begin = address = first.data_ptr()
    for p in parameters:
        if p.data_ptr() != address or not p.is_contiguous() or p.is_neg():
            return False
        address += p.nbytes
    storage = first.untyped_storage()
    return address - begin <= storage.nbytes() - first.storage_offset() * first.element_size()


def write_params(module: nn.Module, flat: Tensor, value: Tensor) -> None:
    """Overwrite the parameters in place and let every snapshot of them know."""
    flat.copy_(value)
    mark_written(module)


def mark_written(module: nn.Module) -> None:
    """Bump the version counters after a write that went past autograd, through the flat view or a
    raw pointer.
    """
    torch.autograd.graph.increment_version(trainable(module))


class Snapshot:
    """Whether the parameters have been written since the moment of a copy."""

    def __init__(self, module: nn.Module, flat: Tensor, theta: Tensor) -> None:
        self.module, self.flat, self.theta = module, flat, theta  # flat_params(module), its copy
        self._versions = self._counters()

    def _counters(self) -> list[tuple[int, int]]:
        return [(p._version, p.data_ptr()) for p in trainable(self.module)]

    def changed(self) -> bool:
        """True once a parameter was written, moved or replaced. On CPU the values are compared as
        well.
        """
        if self._counters() != self._versions:
            return True
        return self.flat.device.type == "cpu" and not torch.equal(self.flat, self.theta)
