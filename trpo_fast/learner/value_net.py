"""The net of a critic: an ``MLPPolicy`` of unit variance, or any module that returns values."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from .._base.arguments import describe, fail
from .._base.rows import Rows, count_rows, parts_of
from ..core.module_checks import draws
from ..policy.flat import trainable
from ..policy.net import MLPPolicy
from ..policy.recurrent import RecurrentPolicy
from ..policy.stock import output_departure


class ValueNet(nn.Module):
    """A module of the user's own that returns values [N] or [N, 1], as the policy of unit variance
    around them whose Fisher matrix is the Gauss-Newton matrix of the values.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._output: list[nn.Linear] = []  # in a list: it is a part of the module

    def values(self, obs: Rows) -> Tensor:
        """Values [N] at rows obs, as the module gives them."""
        found = self.module(obs)
        rows = count_rows(obs)
        if not isinstance(found, Tensor) or found.shape not in ((rows,), (rows, 1)):
            got = describe(found) if isinstance(found, Tensor) else type(found).__name__
            raise fail("critic", f"a module that returns values [{rows}] or [{rows}, 1]", got)
        return found.reshape(rows)

    def forward(self, obs: Rows) -> Independent:
        mean = self.values(obs).unsqueeze(-1)
        normal = Normal(mean, torch.ones_like(mean), validate_args=False)
        return Independent(normal, 1, validate_args=False)

    @torch.no_grad()
    def find_output(self, obs: Rows) -> None:
        """Run the module on rows obs and see which Linear its values are the outputs of: the one
        that follows the scale of the targets. There may be none.
        """
        seen: dict[nn.Linear, list[Tensor]] = {}

        def keep(layer: nn.Module, _: Any, out: Tensor) -> None:
            assert isinstance(layer, nn.Linear)
            seen.setdefault(layer, []).append(out)

        with ExitStack() as hooks:
            for layer in self.module.modules():
                if type(layer) is nn.Linear and layer.out_features == 1 and _is_free(layer):
                    hooks.enter_context(layer.register_forward_hook(keep))
            values = self._first(obs)
        once = [(layer, outs[0]) for layer, outs in seen.items() if len(outs) == 1]
        same = [layer for layer, out in once if torch.equal(out.reshape(-1), values)]
        self._output = [layer for layer in same[:1] if self._scales(layer, obs, values)]

    def _first(self, obs: Rows) -> Tensor:
        """The values of a first run, with torch's words within the module as a sentence."""
        try:
            return self.values(obs)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError) as error:
            given = " and ".join(describe(part) for _, part in parts_of(obs))
            raise fail("critic", f"a module that takes {given}", f"the error: {error}") from error

    def _scales(self, layer: nn.Linear, obs: Rows, values: Tensor) -> bool:
        """Whether the values double with the layer, which nothing else of the module uses then."""
        before = [(p, p.clone()) for p in layer.parameters()]
        try:
            for p, _ in before:
                p.mul_(2.0)
            return torch.allclose(self.values(obs), 2.0 * values)
        finally:
            for p, value in before:
                p.copy_(value)

    @property
    def output(self) -> nn.Linear | None:
        """The layer whose outputs the values are, where there is one."""
        return self._output[0] if self._output else None


def _is_free(layer: nn.Linear) -> bool:
    """Whether scaling its weights scales its outputs and changes nothing else."""
    hooks = (*layer._forward_hooks, *layer._forward_pre_hooks, "forward" in layer.__dict__)
    parts = (layer._parameters.get("weight"), layer._parameters.get("bias"))
    return not any(hooks) and all(p is not None and p.requires_grad for p in parts)


def values_of(net: MLPPolicy | ValueNet, obs: Rows) -> Tensor:
    """Values [N] of a critic's net, in its normalised units."""
    if isinstance(net, ValueNet):
        return net.values(obs)
    values: Tensor = net.net(obs)[:, 0]
    return values


def output_layer(net: MLPPolicy | ValueNet) -> Any:
    """The Linear whose outputs the values are; None where a module has none."""
    return net.output if isinstance(net, ValueNet) else net.net[-1]


def moved(net: MLPPolicy | RecurrentPolicy | ValueNet) -> list[nn.Parameter]:
    """The parameters that a fit moves, the first of the flat ones: the unit variance of a policy's
    head is a parameter, too.
    """
    if isinstance(net, RecurrentPolicy):
        return [p for p in trainable(net) if p is not net.head.log_std]
    return trainable(net) if isinstance(net, ValueNet) else list(net.net.parameters())


def check_fits(net: MLPPolicy | ValueNet) -> None:
    """Refuse layers that do not follow the scale of the targets, or are frozen in part."""
    if isinstance(net, ValueNet):
        return
    if not all(p.requires_grad for p in net.parameters()):
        raise fail("critic", "parameters that all require gradients", "frozen ones")
    if reason := net.own_forward() or output_departure(net.net, net.spec.widths):
        wanted = "a net that ends in a plain Linear, which follows the scale of the targets"
        raise fail("critic", wanted, f"one where {reason}")


def check_steady(module: nn.Module) -> None:
    """Refuse modules whose values of a row depend on other rows or on chance."""
    for name, part in module.named_modules():
        mixes = part.training and isinstance(part, nn.modules.batchnorm._BatchNorm)
        if mixes or draws(part):
            wanted = (
                "modules that value rows one by one, without chance (call critic.eval() before)"
            )
            raise fail("critic", wanted, f"{type(part).__name__} at {name}" if name else repr(part))
