"""Whether a module is a multilayer perceptron with a head that the kernels have.

What a forward looks like does not show that, its graph does: autograd kept every operator between
the parameters and the distribution. Where these are linear maps with one kind of activation between
them and, after them, exactly what a torch distribution does to the outputs, the Jacobian of the
module at theta is that of the net, on the rows as they reach the first map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.modules import Run
from ..policy.heads import Bernoulli, Categorical, Gaussian, MultiCategorical
from ..policy.spec import NetSpec


class Recognised(NamedTuple):
    """A net, the numbers of the module's parameters in the net's order, and the net's rows."""

    spec: NetSpec
    order: tuple[int, ...]  # W1, b1, ..., WL, bL, then log_std
    rows: Tensor  # [N, O]
    allowed: Tensor | None = None  # [N, Z] bool, where some logits were replaced by a constant


class _Outputs(NamedTuple):
    """The node of the net's outputs z [N, Z], or the nodes of parts of them, and what is made of
    them.
    """

    nodes: tuple[Any, ...]
    kind: str
    nvec: tuple[int, ...] = ()
    log_std: tuple[int, ...] = ()  # number of the parameter, where it is one
    allowed: Tensor | None = None


# Nodes that hand on the values of their first input, at most repeated: which of them, and in which
# order, is compared by value (module_kernels.py).
_VIEWS = frozenset(
    f"{name}Backward0" for name in ("View", "UnsafeView", "ReshapeAlias", "Expand", "Alias")
)
_CLAMPS = frozenset(f"Clamp{name}Backward{i}" for name in ("", "Min", "Max") for i in (0, 1))
_ACTIVATIONS = {
    "TanhBackward0": "tanh",
    "ReluBackward0": "relu",
    "EluBackward0": "elu",
    "SiluBackward0": "silu",
    "GeluBackward0": "gelu",
}


def recognise(run: Run, shapes: Sequence[torch.Size]) -> Recognised | None:
    """The net that a run was one of, ``shapes`` being those of the parameters in theta; None where
    it was none.
    """
    outputs = _outputs(run)
    if outputs is None:
        return None
    maps: list[_Maps] = []
    activations: set[str] = set()
    nodes = outputs.nodes
    while True:
        found = _maps(run, nodes, shapes)
        if found is None:
            return None
        maps.insert(0, found)
        if found.before is None:
            break
        node = found.before
        if node.name() == "AddmmBackward0":
            activations.add("identity")
        else:
            activations.add(_activation(node))
            node = node.next_functions[0][0]
        nodes = (node,)
    order = [i for found in maps for i in (*found.weights, *found.biases)] + [*outputs.log_std]
    activation = activations.pop() if activations else "identity"
    if activations or not activation or len(set(order)) != len(order):
        return None
    heights = (sum(shapes[i][0] for i in found.weights) for found in maps)
    spec = NetSpec(
        (shapes[maps[0].weights[0]][1], *heights), activation, outputs.kind, outputs.nvec
    )
    outputs_of_head = run.head.action_dim if outputs.kind == "gaussian" else run.head.outputs
    if spec.widths[-1] != outputs_of_head or sum(shapes[i].numel() for i in order) != spec.size:
        return None  # some were repeated
    rows: Tensor = nodes[0]._saved_mat1.detach()
    allowed = outputs.allowed
    if allowed is not None:
        allowed = allowed.expand(run.params.shape).contiguous()
    return Recognised(spec, tuple(order), rows, allowed)


def _outputs(run: Run) -> _Outputs | None:
    """What lies between a net's outputs and the distribution parameters, if it is nothing else."""
    node, _ = _behind((run.params.grad_fn, 0), _VIEWS)
    if isinstance(run.head, Gaussian):
        return _gaussian(run, node)
    if isinstance(run.head, Bernoulli):
        return _Outputs((node,), "bernoulli")
    if not isinstance(run.head, MultiCategorical) or _name(node) != "ClampMinBackward0":
        return None
    node, _ = _behind(node.next_functions[0], _VIEWS)
    if not isinstance(run.head, Categorical):
        return _Outputs((node,), "multicategorical", run.head.nvec)
    if _name(node) != "SubBackward0" or node._saved_alpha != 1:
        return None
    (z, _), (normaliser, _) = (_behind(edge, _VIEWS) for edge in node.next_functions)
    if _name(normaliser) != "LogsumexpBackward0":
        return None
    if _behind(normaliser.next_functions[0], _VIEWS)[0] is not z:
        return None
    z, allowed = _unmasked(z)
    return _Outputs((z,), "categorical", run.head.nvec, allowed=allowed)


def _unmasked(z: Any) -> tuple[Any, Tensor | None]:
    """The logits before some were replaced by a constant, and which were not."""
    if _name(z) == "MaskedFillBackward0":  # with a number
        return _behind(z.next_functions[0], _VIEWS)[0], ~z._saved_mask
    if _name(z) != "WhereBackward0":
        return z, None
    kept, other = z.next_functions
    if other[0] is None:
        return _behind(kept, _VIEWS)[0], z._saved_condition
    return (_behind(other, _VIEWS)[0] if kept[0] is None else None), ~z._saved_condition


def _gaussian(run: Run, node: Any) -> _Outputs | None:
    """cat(mean, log(exp(log_std))), log_std being a parameter, the other half of the outputs or a
    map of its own.
    """
    if _name(node) != "CatBackward0" or len(node.next_functions) != 2:
        return None
    (mean, half), (log, _) = (_behind(edge, _VIEWS) for edge in node.next_functions)
    if _name(log) != "LogBackward0":
        return None
    exp, _ = _behind(log.next_functions[0], _VIEWS)
    if _name(exp) != "ExpBackward0":
        return None
    spread = _behind(exp.next_functions[0], _VIEWS | _CLAMPS)
    if _name(mean) == "SplitBackward0":
        if spread[0] is not mean or (half, spread[1]) != (0, 1):
            return None
        return _Outputs((_behind(mean.next_functions[0], _VIEWS)[0],), "gaussian_state")
    if _name(spread[0]) == "AddmmBackward0":
        return _Outputs((mean, spread[0]), "gaussian_state")
    number = _number(run, spread)
    return None if number is None else _Outputs((mean,), "gaussian", log_std=(number,))


class _Maps(NamedTuple):
    """Linear maps side by side, one below the other as one map, of what the node before gives."""

    weights: tuple[int, ...]
    biases: tuple[int, ...]
    before: Any  # None where that are rows


def _maps(run: Run, nodes: tuple[Any, ...], shapes: Sequence[torch.Size]) -> _Maps | None:
    found = [_linear(run, node, shapes) for node in nodes]
    pairs = [pair for pair in found if pair is not None]
    if len(pairs) != len(nodes):
        return None
    before = nodes[0].next_functions[1][0]
    if any(node.next_functions[1][0] is not before for node in nodes):
        return None
    if before is None and len(nodes) > 1:  # rows that may differ
        return None
    return _Maps(tuple(w for w, _ in pairs), tuple(b for _, b in pairs), before)


def _linear(run: Run, node: Any, shapes: Sequence[torch.Size]) -> tuple[int, int] | None:
    """The parameters of one map x W' + b of two dimensions."""
    if _name(node) != "AddmmBackward0" or (node._saved_alpha, node._saved_beta) != (1, 1):
        return None
    bias, _, transposed = node.next_functions
    if _name(transposed[0]) != "TBackward0":
        return None
    weight, b = _parameter(run, transposed[0].next_functions[0]), _parameter(run, bias)
    if weight is None or b is None or len(shapes[weight]) != 2:
        return None
    return (weight, b) if shapes[b] == shapes[weight][:1] else None


def _activation(node: Any) -> str:
    """The activation that a node is; empty if it is none of the kernels'."""
    name = _ACTIVATIONS.get(_name(node), "")
    if name == "elu":
        settings = (node._saved_alpha, node._saved_scale, node._saved_input_scale)
        return name if settings == (1, 1, 1) else ""
    if name == "gelu":
        return name if node._saved_approximate == "none" else ""
    return name


def _parameter(run: Run, edge: tuple[Any, int]) -> int | None:
    """The number of a parameter as it is."""
    node, _ = edge
    return _number(run, node.next_functions[0]) if _name(node) == "ViewBackward0" else None


def _number(run: Run, edge: tuple[Any, int]) -> int | None:
    """The number of a part that theta was split into."""
    node, number = edge
    if _name(node) != "SplitWithSizesBackward0":
        return None
    return number if getattr(node.next_functions[0][0], "variable", None) is run.theta else None


def _behind(edge: tuple[Any, int], names: frozenset[str]) -> tuple[Any, int]:
    """The first node, and its output, that is none of these."""
    while _name(edge[0]) in names:
        edge = edge[0].next_functions[0]
    return edge


def _name(node: Any) -> str:
    return "" if node is None else node.name()
