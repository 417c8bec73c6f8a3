"""Row-level maths of the surrogate: what the gradient and the line search need once distribution
parameters are known.

With ratio rho_n = pi_theta(a_n | s_n) / pi_old(a_n | s_n), row weights w_n and W = sum w:

    plain    S = sum_n w_n rho_n A_n / W
    grouped  S = sum_g W_g S_g / W,  S_g = sum_k w_k rho_k A_k / sum_k w_k rho_k,  W_g = sum_k w_k

The grouped form is vine's self-normalised estimator over ``group_size`` consecutive rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..policy.heads import Head
from .batch import Batch, normalised_weights


@dataclass(frozen=True)
class Measures:
    """The policy at some parameters, 0-d tensors. KL is that between the policy of the batch's
    old_params and this one; without them, between the policy of the call and this one. The
    surrogate's ratios are to the batch's log_probs where it has them, otherwise to the same policy.
    """

    kl: Tensor
    max_kl: Tensor
    surrogate: Tensor
    entropy: Tensor


def sampler_params(batch: Batch, call_params: Tensor) -> Tensor:
    """Distribution parameters [N, D] of the policy that KL is measured from."""
    return call_params if batch.old_params is None else batch.old_params


def surrogate(
    head: Head, batch: Batch, call_params: Tensor, params: Tensor, total: Tensor
) -> tuple[Tensor, Tensor]:
    """S over these rows, and dS / d log pi(a_n) [N], both normalised by the whole batch's
    weight.
    """
    assert batch.actions is not None and batch.advantages is not None
    old = batch.log_probs
    if old is None:
        old = head.log_prob(sampler_params(batch, call_params), batch.actions)
    ratio = (head.log_prob(params, batch.actions) - old).exp()
    weights = normalised_weights(batch, total)
    if batch.group_size is None:
        terms = weights * ratio * batch.advantages
        return terms.sum(), terms
    shape = (-1, batch.group_size)
    mass = (weights * ratio).view(shape)
    group_weight = weights.reshape(shape).sum(-1, keepdim=True)
    denominator = mass.sum(-1, keepdim=True)
    share = torch.where(denominator > 0, group_weight / denominator, 0.0) * mass
    advantages = batch.advantages.view(shape)
    mean = (share * advantages).sum(-1, keepdim=True)
    own = torch.where(group_weight > 0, mean / group_weight, 0.0)
    return mean.sum(), (share * (advantages - own)).reshape(-1)


def evaluate_rows(
    head: Head,
    batch: Batch,
    call_params: Tensor,
    params: Tensor,
    total: Tensor,
    *,
    kl_scale: float,
    reverse_kl: bool,
) -> Measures:
    """KL, largest KL of a state, surrogate and entropy of these rows' share of the batch."""
    old = sampler_params(batch, call_params)
    first, second = (params, old) if reverse_kl else (old, params)
    kl = kl_scale * head.kl(first, second)
    weights = normalised_weights(batch, total)
    counted = kl if batch.weights is None else torch.where(batch.weights > 0, kl, 0.0)
    if batch.actions is None:
        value = torch.zeros_like(total)
    else:
        value, _ = surrogate(head, batch, call_params, params, total)
    return Measures(
        (weights * kl).sum(), counted.amax(), value, (weights * head.entropy(params)).sum()
    )
