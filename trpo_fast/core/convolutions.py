"""Convolutions whose derivative torch differentiates by two convolutions, as it is linear in what
it is given: its own way back through a convolution's way back takes three times as long.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DIMENSIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}


class _Settings(NamedTuple):
    """Of one convolution, a number a dimension."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    def _arguments(self) -> tuple[Any, ...]:
        """What torch's operators take after the tensors; none is a transposed convolution."""
        zeros = [0] * len(self.stride)
        return self.stride, self.padding, self.dilation, False, zeros, self.groups

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        out: Tensor = torch.ops.aten.convolution(
            x,
            weight,
            bias,
            *self._arguments(),
        )
        return out

    def back(self, delta: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool]) -> Any:
        """The gradients in x, weight and bias, those that are wanted."""
        return torch.ops.aten.convolution_backward(
            delta,
            x,
            weight,
            [weight.shape[0]],
            *self._arguments(),
            list(wanted),
        )


class _Convolution(torch.autograd.Function):
    """y = x * weight + bias."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, settings: _Settings) -> Tensor:
        return settings.forward(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, weight, _, ctx.settings = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        wanted = tuple(ctx.needs_input_grad[:3])
        return *_Back.apply(delta, x, weight, ctx.settings, wanted), None


class _Back(torch.autograd.Function):
    """The way back from delta, to be differentiated itself."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        delta: Tensor, x: Tensor, weight: Tensor, settings: _Settings, wanted: tuple[bool, ...]
    ) -> Any:
        return tuple(settings.back(delta, x, weight, wanted))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        delta, x, weight, ctx.settings, _ = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(delta, x, weight)

    @staticmethod
    def backward(ctx: Any, vx: Tensor | None, vw: Tensor | None, vb: Tensor | None) -> Any:
        delta, x, weight = ctx.saved_tensors
        settings, (_, of_x, of_weight) = ctx.settings, ctx.needs_input_grad[:3]
        through: Tensor | None = None
        if vw is not None:
            through = settings.forward(x, vw, vb)
        elif vb is not None:
            through = vb.view(-1, *[1] * (delta.ndim - 2)).expand_as(delta)
        if vx is not None:
            from_x = settings.forward(vx, weight)
            through = from_x if through is None else through + from_x
        dx = dw = None
        if of_x and vw is not None:
            dx = settings.back(delta, x, vw, (True, False, False))[0]
        if of_weight and vx is not None:
            dw = settings.back(delta, vx, weight, (False, True, False))[1]
        return through, dx, dw, None, None


class _InPlace(TorchFunctionMode):
    """Puts them in the place of torch's."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        dimensions = _DIMENSIONS.get(func)
        if dimensions is not None:
            given = _given(dimensions, *args, **kwargs)
            if given is not None:
                return _Convolution.apply(*given)
        return func(*args, **kwargs)


def _given(
    dimensions: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor | None, _Settings] | None:
    """The arguments of a convolution over rows; None for another, whose padding is a word, say."""
    if isinstance(padding, str) or input.ndim != dimensions + 2:
        return None

    def each(value: Any) -> list[int]:
        return [value] * dimensions if isinstance(value, int) else list(value)

    settings = _Settings(each(stride), each(padding), each(dilation), groups)
    return input, weight, bias, settings


def twice_differentiable(policy: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Where a run of the policy is differentiated twice."""
    if any(isinstance(part, nn.modules.conv._ConvNd) for part in policy.modules()):
        return _InPlace()
    return contextlib.nullcontext()
