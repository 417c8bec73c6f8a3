"""What an ``MLPPolicy`` as it comes is made of, and in which way a given one departs from that.

The reference's stages and the kernels compute from a policy's spec and its flat parameters alone,
so they serve only a policy that departs in nothing. Any other one is run as a module. A policy here
is an ``MLPPolicy``, whose class asks these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module

from .heads import STOCK_HEADS, Head
from .spec import NetSpec

ACTIVATION_MODULES: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "identity": nn.Identity,
}

# The settings of activations that change their function, and the values the stages assume.
_SETTINGS = {"elu": ("alpha", 1.0), "gelu": ("approximate", "none")}

_HEAD_METHODS = frozenset(name for name, value in vars(Head).items() if callable(value))


def hooks_for_all_modules() -> str:
    """Words for hooks that torch runs at every module; empty if there are none."""
    if torch_module._has_any_global_hook():
        return "hooks are registered for all modules"
    return ""


def own_forward(policy: Any, stock: Mapping[str, Callable[..., Any]]) -> str:
    """Why ``policy(obs)`` may be another distribution than ``head.distribution(
    distribution_params(obs))``, in words; empty if it cannot. ``stock`` holds MLPPolicy's methods.
    """
    kind = type(policy)
    for name in ("__call__", "forward"):
        if getattr(kind, name) is not stock[name]:
            return f"{kind.__name__} has its own {name}"
    return altered("the policy", policy.__dict__)


def departure(policy: Any, stock: Mapping[str, Callable[..., Any]]) -> str:
    """What of a policy its spec does not say, in words; empty if the spec says all."""
    if reason := own_forward(policy, stock):
        return reason
    fields, kind = policy.__dict__, type(policy)
    for name in ("distribution_params", "__getattr__"):
        if getattr(kind, name) is not stock[name]:
            return f"{kind.__name__} has its own {name}"
    if "distribution_params" in fields:
        return "the policy's distribution_params is replaced"
    parts = fields["_modules"]
    if fields["_parameters"] or list(parts) != ["net", "head"]:
        return "the policy has other parts than net and head, or has them in another order"
    held: list[nn.Parameter] = []
    reason = _net_departure(parts["net"], policy.spec, held)
    reason = reason or _head_departure(parts["head"], policy.spec, held)
    if not reason and len(set(map(id, held))) != len(held):
        return "parameters are tied"
    return reason


def altered(name: str, fields: dict[str, Any]) -> str:
    """Words for hooks and an overridden ``forward`` of one module, whose ``__dict__`` this is."""
    if "forward" in fields:
        return f"the forward of {name} is replaced"
    if fields["_forward_hooks"] or fields["_forward_pre_hooks"]:
        return f"{name} has forward hooks, as pruning, weight_norm and spectral_norm do"
    if fields["_backward_hooks"] or fields["_backward_pre_hooks"]:
        return f"{name} has backward hooks"
    return ""


def _net_departure(net: nn.Module, spec: NetSpec, held: list[nn.Parameter]) -> str:
    """The same for the net; appends the parameters to ``held``."""
    layers = list(net._modules.values())
    if type(net) is not nn.Sequential or len(layers) != 2 * spec.maps - 1:
        return "layers are added or removed"
    if reason := altered("net", net.__dict__):
        return reason
    activation, setting = ACTIVATION_MODULES[spec.activation], _SETTINGS.get(spec.activation)
    for i, layer in enumerate(layers):
        wanted = activation if i & 1 else nn.Linear
        if type(layer) is not wanted:
            return f"net.{i} is {type(layer).__name__}, not torch's {wanted.__name__}"
        if reason := altered(f"net.{i}", layer.__dict__):
            return reason
        if i & 1:
            if setting is not None and getattr(layer, setting[0]) != setting[1]:
                return f"net.{i} has {setting[0]}={getattr(layer, setting[0])!r}"
        elif reason := _linear_departure(layer, spec.widths[i // 2 : i // 2 + 2], held):
            return f"net.{i} {reason}"
    return ""


def output_departure(net: nn.Sequential, widths: tuple[int, ...]) -> str:
    """Why the outputs of a net may be no linear map of what its last layer gets, with the weights
    of that layer, in words; empty if they are.
    """
    name, layer = f"net.{len(net) - 1}", net[-1]
    if type(layer) is not nn.Linear:
        return f"{name} is {type(layer).__name__}, not torch's Linear"
    if reason := altered("net", net.__dict__) or altered(name, layer.__dict__):
        return reason
    reason = _linear_departure(layer, widths[-2:], [])
    return f"{name} {reason}" if reason else ""


def _linear_departure(layer: nn.Module, widths: tuple[int, ...], held: list[nn.Parameter]) -> str:
    parameters = layer._parameters
    if [*parameters] != ["weight", "bias"]:
        return f"has the parameters {[*parameters]}, not weight and bias in this order"
    weight, bias = parameters.values()
    if type(weight) is not nn.Parameter or type(bias) is not nn.Parameter:
        return "is without a bias, or has parameters of a class of their own"
    if weight.shape != (widths[1], widths[0]) or bias.shape != (widths[1],):
        return f"has weights {list(weight.shape)}, not {[widths[1], widths[0]]}"
    if not (weight.requires_grad and bias.requires_grad):
        return "is frozen"
    held += (weight, bias)
    return ""


def _head_departure(head: nn.Module, spec: NetSpec, held: list[nn.Parameter]) -> str:
    if type(head) not in STOCK_HEADS:
        return f"the head is {type(head).__name__}, none of the package's own"
    assert isinstance(head, Head)
    if not _HEAD_METHODS.isdisjoint(head.__dict__):
        return "a method of the head is replaced"
    if (head.kind, head.nvec, head.outputs) != (spec.head, spec.nvec, spec.widths[-1]):
        return f"the head is another one than the spec's {spec.head}"
    if [*head._parameters] != ["log_std"] or head._modules:
        return f"the head has the parameters {[*head._parameters]}, not log_std alone"
    log_std = head._parameters["log_std"]
    if not spec.free:
        return "" if log_std is None else "the head has a log_std of its own"
    if type(log_std) is not nn.Parameter or log_std.shape != (spec.free,):
        return "the head's log_std is replaced"
    if not log_std.requires_grad:
        return "the head's log_std is frozen"
    held.append(log_std)
    return ""
