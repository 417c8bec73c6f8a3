"""Inner products of the rows' scores from cached activations: no gradient of one row is formed.

Row i of S [N, P] is the gradient of log pi(a_i | s_i) in theta. In map l it is the outer product of
delta_i, the gradient in what the map gives, with the map's input h_i and the 1 of its bias; in a
free log_std it is s_i:

    (S S')_ij = sum_l (delta_i,l . delta_j,l)(h_i,l-1 . h_j,l-1 + 1) + s_i . s_j
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..policy.spec import NetSpec
from .reference import Activations, deltas, with_one

TILE = 256  # rows at a time: their products with all rows stay in cache


def gram(theta: Tensor, spec: NetSpec, acts: Activations, scores: Tensor) -> Tensor:
    """The lower triangle of S S' [N, N], zeros above it; ``scores`` [N, D] are the gradients in the
    distribution parameters, scaled as the rows of S are to be.
    """
    rows = scores.shape[0]
    result = scores.new_zeros(rows, rows)
    own = None
    if spec.free:
        scores, own = scores.chunk(2, dim=-1)
    maps = [(delta, with_one(acts.inputs[i])) for i, delta in deltas(theta, spec, acts, scores)]
    outer, inner = scores.new_empty(2, min(TILE, rows), rows)
    for begin in range(0, rows, TILE):
        end = min(begin + TILE, rows)
        block = result[begin:end, :end]
        a, b = outer[: end - begin, :end], inner[: end - begin, :end]
        if own is not None:
            torch.mm(own[begin:end], own[:end].T, out=block)
        for delta, h in maps:
            torch.mm(delta[begin:end], delta[:end].T, out=a)
            torch.mm(h[begin:end], h[:end].T, out=b)
            block.addcmul_(a, b)
    return result.tril_()
