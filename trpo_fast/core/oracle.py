"""The dense Fisher matrix of a small policy in float64, by a route that shares no derivative code
with the reference.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .._base.guards import outside_autocast, uninterrupted
from .._base.rows import map_rows
from ..policy.heads import Head
from ..policy.net import MLPPolicy
from .batch import Batch, normalised_weights, total_weight
from .modules import ModuleFunction, Params
from .problem import Problem

_NUMBERS = 2**22  # of the Jacobians held at a time: 32 MB
_ROWS = 256


@outside_autocast
@uninterrupted
def dense_fisher(problem: Problem) -> Tensor:
    """F + damping I, [P, P]: the rows' Jacobians by autograd, the metric column by column."""
    given = problem.fisher_batch().without_padding()
    batch = _double(given)
    theta = problem.theta.detach().double()
    total = total_weight(batch, torch.float64)
    fisher = problem.damping * torch.eye(theta.numel(), dtype=theta.dtype, device=theta.device)
    function = ModuleFunction(problem.policy, given)
    for piece in _pieces(problem, batch):
        head, params, jacobians = _linearize(function.on(piece), theta)
        if problem.fisher == "empirical":
            assert piece.actions is not None
            score = head.score(params, piece.actions)
            metric = score.unsqueeze(-1) * score.unsqueeze(-2)
        else:
            metric = metric_matrix(head, params)
        metric *= problem.kl_scale * normalised_weights(piece, total).view(-1, 1, 1)
        for rows, jacobian in jacobians:  # [n, D, P]
            fisher.addmm_((metric[rows] @ jacobian).flatten(0, 1).T, jacobian.flatten(0, 1))
    return fisher


def _rows_at_once(outputs: int, parameters: int) -> int:
    return max(1, min(_ROWS, _NUMBERS // (outputs * parameters)))


def _pieces(problem: Problem, batch: Batch) -> Iterator[Batch]:
    """Rows that are run without the others: few at a time, a row's Jacobian passes through all of
    them. Another module than an ``MLPPolicy`` may take its rows only together.
    """
    policy, size = problem.policy, len(batch)
    if isinstance(policy, MLPPolicy) and not policy.departure():
        size = _rows_at_once(policy.head.parameters_per_row, problem.theta.numel())
    for start in range(0, len(batch), size):
        yield batch.rows(slice(start, start + size))


def _linearize(
    function: Params, theta: Tensor
) -> tuple[Head, Tensor, Iterator[tuple[slice, Tensor]]]:
    """(head, distribution parameters [N, D], Jacobians of some rows at a time [n, D, P])."""
    head, params = function(theta)
    params = params.detach()
    pullback = torch.func.vjp(lambda t: function(t)[1], theta)[1]

    def jacobians() -> Iterator[tuple[slice, Tensor]]:
        width = params.shape[-1]
        each = torch.eye(width, dtype=params.dtype, device=params.device)
        step = _rows_at_once(width, theta.numel())
        for start in range(0, len(params), step):
            rows = slice(start, min(start + step, len(params)))
            picked = params.new_zeros(rows.stop - start, width, *params.shape)
            for i in range(rows.stop - start):
                picked[i, :, start + i] = each
            found = torch.func.vmap(pullback)(picked.flatten(0, 1))[0]
            yield rows, found.view(-1, width, theta.numel())

    return head, params, jacobians()


def metric_matrix(head: Head, params: Tensor) -> Tensor:
    """Each row's Fisher information [N, D, D]: the Hessian of KL(old || new) in the new parameters,
    by autograd.
    """
    old = params.detach()

    def gradient(new: Tensor) -> Tensor:
        slope: Tensor = torch.func.grad(lambda p: head.kl(old, p).sum())(new)
        return slope

    columns = []
    for d in range(params.shape[-1]):
        direction = torch.zeros_like(params)
        direction[:, d] = 1.0
        columns.append(torch.func.jvp(gradient, (params,), (direction,))[1])
    return torch.stack(columns, dim=-1)


def _double(batch: Batch) -> Batch:
    def convert(value: Tensor | None) -> Tensor | None:
        return value.double() if value is not None and value.is_floating_point() else value

    return Batch(
        map_rows(convert, batch.obs),
        convert(batch.actions),
        weights=convert(batch.weights),
        action_mask=batch.action_mask,
        sequence_length=batch.sequence_length,
        starts=batch.starts,
        state=convert(batch.state),
    )
