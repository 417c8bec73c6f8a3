"""The Fisher information of rows as factors that the kernels multiply by, made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...policy.heads import Head

DIAGONAL, CHOICES, PAIRS = 0, 1, 2  # of kernels/metric.py


@dataclass(frozen=True)
class Metric:
    """Factors of every row: [N, Z] of a diagonal or of probabilities, [N, 2 Z] of pairs."""

    kind: int
    factors: Tensor
    choices: int  # how many
    ids: Tensor  # [Z] int32, the choice that an output belongs to


def make_metric(head: Head, params: Tensor) -> Metric:
    """Of a stock head, at its distribution parameters [N, D]."""
    none = torch.zeros(1, dtype=torch.int32, device=params.device)
    if head.nvec:
        parts = [part.softmax(-1) for part in params.split(list(head.nvec), dim=-1)]
        return Metric(CHOICES, torch.cat(parts, -1), len(parts), _ids(head.nvec, params.device))
    if head.kind == "bernoulli":
        return Metric(DIAGONAL, torch.sigmoid(params) * torch.sigmoid(-params), 0, none)
    if head.kind == "beta":
        ones = torch.ones_like(params, dtype=torch.float64)
        first, second = ones.clone(), ones.clone()
        half = params.shape[-1] // 2
        first[:, half:] = 0.0
        second[:, :half] = 0.0
        of_first, of_second = head.metric(params, first), head.metric(params, second)
        own = of_first * first + of_second * second
        coupling = of_first * second + of_second * first
        return Metric(PAIRS, torch.cat([own, coupling], -1), 0, none)
    width = head.outputs
    return Metric(DIAGONAL, head.metric(params, torch.ones_like(params))[:, :width], 0, none)


def _ids(nvec: Sequence[int], device: torch.device) -> Tensor:
    """Filled on the device: numbers copied from the host are refused by CUDA graphs."""
    ids = torch.zeros(sum(nvec), dtype=torch.int32, device=device)
    begin = 0
    for n in nvec[:-1]:
        begin += n
        ids[begin:] += 1
    return ids
