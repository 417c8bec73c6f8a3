"""K-FAC's factors of any module, from what its Linear layers take and give in one run forward and
back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..policy.substitute import Substitution
from .preconditioner import Factors, MapFactors
from .reference import with_one


@dataclass
class _Tap:
    """The places of one layer in the flat vector, and what went through it."""

    weight: slice
    bias: slice | None
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def watch(self, module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        """Called after the layer's forward."""
        self.inputs.append(given[0] if given else torch.empty(0))
        self.outputs.append(output)

    @property
    def used_once(self) -> bool:
        """Factors are of layers that run once, on rows or on several places of every row."""
        return len(self.outputs) == 1 and self.inputs[0].ndim > 1 and self.outputs[0].requires_grad


class Taps:
    """Watches the Linear layers of a module in one run of it with other parameters."""

    def __init__(self, policy: nn.Module, parameters: list[nn.Parameter]) -> None:
        self._taps: dict[nn.Module, _Tap] = {}
        self._spans: dict[int, slice] = {}
        offset = 0
        for p in parameters:
            self._spans[id(p)] = slice(offset, offset + p.numel())
            offset += p.numel()
        for layer in policy.modules():
            if type(layer) is nn.Linear and not layer._forward_hooks:
                weight = self._spans.get(id(layer.weight))
                bias = None if layer.bias is None else self._spans.get(id(layer.bias))
                if weight is not None and (layer.bias is None or bias is not None):
                    self._taps[layer] = _Tap(weight, bias)

    def attach(self, substitution: Substitution) -> None:
        """Watch the copies that a run uses."""
        for layer, tap in self._taps.items():
            substitution.module(layer).register_forward_hook(tap.watch)

    def factors(self, theta: Tensor, params: Tensor, delta: Tensor, weights: Tensor) -> Factors:
        """What the rows of that run add: params [N, D] are its result, delta [N, D] is S xi,
        weights [N] are normalised.
        """
        taps = [tap for tap in self._taps.values() if tap.used_once]
        through = [tap.outputs[0] for tap in taps]
        scaled = weights.sqrt().unsqueeze(-1) * delta
        root, *deltas = torch.autograd.grad(params, [theta, *through], scaled, allow_unused=True)
        maps, covered = [], set()
        for tap, d in zip(taps, deltas, strict=True):
            if d is not None:
                maps.append(_factors(tap, d, weights))
                covered |= {tap.weight.start} | ({tap.bias.start} if tap.bias else set())
        others = [span for span in self._spans.values() if span.start not in covered]
        return Factors(maps, others=others, root=torch.zeros_like(theta) if root is None else root)


def _factors(tap: _Tap, deltas: Tensor, weights: Tensor) -> MapFactors:
    """A averages over the places of a row, G adds them up; deltas have the weights' roots."""
    h, d = tap.inputs[0].detach(), deltas.flatten(0, -2)
    if tap.bias is not None:
        h = with_one(h)
    if len(h) == len(weights):
        h = h * weights.sqrt().view(-1, *[1] * (h.ndim - 1)) / (h[0, ..., 0].numel() ** 0.5)
    else:
        h = h * (weights.sum() / h[..., 0].numel()).sqrt()
    h = h.flatten(0, -2)
    return MapFactors(h.T @ h, d.T @ d, tap.weight, tap.bias)
