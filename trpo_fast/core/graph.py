"""The graph that autograd keeps of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def nodes(result: Tensor) -> Iterator[Any]:
    """Every node that a tensor's gradient passes through, each once."""
    pending, seen = [result.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            pending += [earlier for earlier, _ in node.next_functions]


def reaches_others(params: Tensor, theta: Tensor) -> bool:
    """Whether a run at theta has gradients in tensors that are no part of it."""
    if not theta.requires_grad:
        return params.requires_grad
    return any(getattr(node, "variable", theta) is not theta for node in nodes(params))


def saved_bytes(results: list[Tensor], apart_from: list[Tensor]) -> int:
    """Memory of what the graphs of some tensors keep, each storage once."""
    storages = {t.untyped_storage().data_ptr() for t in apart_from}
    total = 0
    for result in results:
        for node in nodes(result):
            for saved in _saved(node):
                storage = saved.untyped_storage()
                if storage.data_ptr() not in storages:
                    storages.add(storage.data_ptr())
                    total += storage.nbytes()
    return total


def _saved(node: Any) -> Iterator[Tensor]:
    if hasattr(node, "saved_tensors"):  # a Function in Python
        held = list(node.saved_tensors)
    else:
        names = [name for name in dir(node) if name.startswith("_saved_")]
        held = [getattr(node, name) for name in names]
    for value in held:
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, Tensor):
                yield part
