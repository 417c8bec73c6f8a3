"""What the modules of a policy have to be, as far as can be seen without a run."""

from __future__ import annotations

from torch import nn

from .._base.arguments import fail

STEADY = "modules that draw no random numbers as they run (call policy.eval() before)"


def check_modules(policy: nn.Module) -> None:
    """Refuse modules that are no function of their inputs and parameters, or change derivatives."""
    for name, module in policy.named_modules():
        if reason := _unfit(module):
            raise fail("policy", reason, _named(name, module))


def _named(name: str, module: nn.Module) -> str:
    return f"{type(module).__name__} at {name}" if name else type(module).__name__


def _unfit(module: nn.Module) -> str:
    """What a policy's modules have to be and this one is not; empty if it is fine."""
    if module._backward_hooks or module._backward_pre_hooks:
        return "modules without backward hooks, which would change the derivatives"
    return STEADY if draws(module) else ""


def draws(module: nn.Module) -> bool:
    """Whether a module of torch's draws random numbers as it runs."""
    if not module.training:
        return False
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        return module.dropout > 0
    return isinstance(module, nn.RReLU)
