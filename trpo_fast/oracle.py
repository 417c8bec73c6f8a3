"""The dense Fisher matrix of a small policy in float64, by a route that shares no derivative code
with the reference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .backend import Problem
from .guards import outside_autocast, uninterrupted
from .heads import Head
from .module_function import ModuleFunction
from .surrogate import Batch, normalised_weights, total_weight


@outside_autocast
@uninterrupted
def dense_fisher(problem: Problem) -> Tensor:
    """F + damping I, [P, P]: the Jacobian by autograd, the metric column by column."""
    rows = problem.fisher_batch().without_padding()
    batch = _double(rows)
    theta = problem.theta.detach().double()
    function = ModuleFunction(problem.policy, rows).on(batch)
    head, params = function(theta)
    jacobian = torch.func.jacrev(lambda t: function(t)[1])(theta)  # [N, D, P]
    if problem.fisher == "empirical":
        assert batch.actions is not None
        score = head.score(params, batch.actions)
        metric = score.unsqueeze(-1) * score.unsqueeze(-2)
    else:
        metric = metric_matrix(head, params)
    weights = normalised_weights(batch, total_weight(batch, torch.float64))
    fisher = torch.einsum("n,nip,nij,njq->pq", weights, jacobian, metric, jacobian)
    return problem.kl_scale * fisher + problem.damping * torch.eye(
        theta.numel(), dtype=torch.float64
    )


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
        batch.obs.double() if batch.obs.is_floating_point() else batch.obs,
        convert(batch.actions),
        weights=convert(batch.weights),
        action_mask=batch.action_mask,
    )
