"""The layers of a user's own code, found by running it once and watching what it calls.

Whatever torch is asked for on the way counts, tests of values and properties included: if that is
linear maps and activations in turn, each on the result of the one before, the code is a multilayer
perceptron, whatever it looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..policy.stock import ACTIVATION_MODULES

# What tells nothing of values; and what may give the same values again, looked at where it does.
_SHAPES = {"__get__", "size", "dim", "numel", "__len__", "is_floating_point"}
_SAME = {"reshape", "view", "flatten", "contiguous", "to", "as_tensor", "float"}
_ACTIVATIONS = {"tanh", "relu", "elu", "silu", "gelu"}
_PLAIN = {"alpha": 1.0, "approximate": "none"}  # settings of activations, as the kernels have them


class _Calls(TorchFunctionMode):
    """Remembers every call: name, arguments, keywords, result."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        self.made.append((getattr(func, "__name__", ""), args, named, result))
        return result


@torch.no_grad()
def layers_of(
    call: Callable[[], Tensor], given: Tensor, modules: Iterable[nn.Module]
) -> list[nn.Module] | None:
    """Linear layers (the very modules) and activations by which ``call`` comes from ``given``
    [N, O] to what it returns; None where it does anything else.
    """
    with _Calls() as calls:
        output = call()
    linear = {id(m.weight): m for m in modules if type(m) is nn.Linear}
    layers: list[nn.Module] = []
    held = [given]  # tensors with the values reached so far
    for name, args, named, result in calls.made:
        if name in _SHAPES and not isinstance(result, Tensor):
            continue
        source = args[0] if args else None
        if name in _SAME:
            if any(source is t for t in held) and _alike(result, held[0]):
                held.append(result)
            continue
        if not any(source is t for t in held):
            return None
        layer = _layer(name, args, named, linear)
        if layer is None:
            return None
        layers.append(layer)
        held = [result]
    return layers if any(output is t for t in held) else None


def _alike(a: Any, b: Tensor) -> bool:
    return isinstance(a, Tensor) and (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)


def _layer(
    name: str, args: tuple[Any, ...], named: dict[str, Any], linear: dict[int, nn.Linear]
) -> nn.Module | None:
    if name == "linear":
        found = linear.get(id(args[1])) if len(args) > 2 else None
        known = found is not None and found.bias is not None and args[2] is found.bias
        return found if known else None
    if name not in _ACTIVATIONS:
        return None
    settings = {key: value for key, value in named.items() if key != "inplace"}
    if len(args) > 1:  # by place: alpha is ELU's, inplace what the others have second
        settings["alpha"] = args[1] if name == "elu" else 1.0
    if any(value != _PLAIN.get(key) for key, value in settings.items()):
        return None
    return ACTIVATION_MODULES[name]()
