"""Row-level maths of the surrogate: what the gradient and the line search need once distribution
parameters are known.

With ratio rho_n = pi_theta(a_n | s_n) / pi_old(a_n | s_n), row weights w_n and W = sum w:

    plain    S = sum_n w_n rho_n A_n / W
    grouped  S = sum_g W_g S_g / W,  S_g = sum_k w_k rho_k A_k / sum_k w_k rho_k,  W_g = sum_k w_k

The grouped form is vine's self-normalised estimator over ``group_size`` consecutive rows.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from .._base.arguments import describe
from ..policy.heads import Head


@dataclass(frozen=True)
class Batch:
    """Rows of experience: obs [N, O], actions [N, A] ([N] for Categorical, [N, factors] for
    MultiCategorical), advantages [N], log_probs [N] of the actions when they were chosen.

    ``log_probs=None`` stands for those under the policy of the call. weights [N] >= 0: rows of
    weight zero may hold anything, NaN included. action_mask [N, Z] bool, True = allowed.
    group_size: as many consecutive rows share one denominator.
    """

    obs: Tensor  # [N, O], or what a custom module takes with N rows first
    actions: Tensor | None = None  # [N, A]; [N] for Categorical, [N, factors] for MultiCategorical
    advantages: Tensor | None = None  # [N]
    log_probs: Tensor | None = None  # [N] of the actions under the policy that took them
    weights: Tensor | None = None  # [N] >= 0; None: all ones
    action_mask: Tensor | None = None  # [N, Z] bool, True = allowed
    group_size: int | None = None  # K: consecutive rows that share one denominator

    def __len__(self) -> int:
        """N, the number of rows."""
        return self.obs.shape[0]

    def __repr__(self) -> str:
        """Types and shapes of what is there, no values."""

        def shown(value: Any) -> str:
            if isinstance(value, Tensor):
                return describe(value)
            return str(value) if isinstance(value, int) else type(value).__name__

        given = {name: value for name, value in vars(self).items() if value is not None}
        parts = [f"{name}={shown(value)}" for name, value in given.items()]
        return f"Batch({', '.join(parts)})"

    def rows(self, index: slice | Tensor) -> Batch:
        """The batch restricted to some rows: a slice, or indices [M]."""
        tensors: dict[str, Any] = {
            f.name: value[index]
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **tensors)

    def tracked(self) -> Batch:
        """The batch with copies of what was made under ``torch.inference_mode()``: torch does not
        count the writes to such tensors, nor let gradients pass through them.
        """
        untracked: dict[str, Any] = {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and value.is_inference()
        }
        if not untracked:
            return self
        with torch.inference_mode(False):
            return replace(self, **{name: value.clone() for name, value in untracked.items()})

    def without_padding(self) -> Batch:
        """Zero-weight rows filled with harmless values, so that 0 * NaN never happens."""
        if self.weights is None:
            return self
        keep = self.weights > 0

        def fill(value: Tensor | None, filler: float) -> Tensor | None:
            if value is None:
                return None
            return torch.where(keep.view(-1, *[1] * (value.ndim - 1)), value, filler).to(
                value.dtype
            )

        filled: dict[str, Any] = {
            name: fill(getattr(self, name), 0)
            for name in ("obs", "actions", "advantages", "log_probs", "weights")
        }
        return replace(self, **filled, action_mask=fill(self.action_mask, True))


@dataclass(frozen=True)
class Evaluation:
    """The policy at some parameters, 0-d tensors. KL is that between it and the policy at the
    parameters of the call, which sampled the batch only if nothing has moved them since; the
    surrogate's ratios are to the batch's log_probs where it has them.
    """

    kl: Tensor
    max_kl: Tensor
    surrogate: Tensor
    entropy: Tensor


def normalised_weights(batch: Batch, total: Tensor) -> Tensor:
    """w_n / W [N]; ``total`` is the W of the whole batch where ``batch`` is a chunk of it."""
    if batch.weights is None:
        return (1.0 / total).expand(len(batch))
    return batch.weights / total


def total_weight(batch: Batch, dtype: torch.dtype) -> Tensor:
    if batch.weights is None:
        return torch.full((), float(len(batch)), dtype=dtype, device=batch.obs.device)
    return batch.weights.sum()


def surrogate(
    head: Head, batch: Batch, old_params: Tensor, params: Tensor, total: Tensor
) -> tuple[Tensor, Tensor]:
    """S over these rows, and dS / d log pi(a_n) [N], both normalised by the whole batch's
    weight.
    """
    assert batch.actions is not None and batch.advantages is not None
    old = batch.log_probs
    if old is None:
        old = head.log_prob(old_params, batch.actions)
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
    old_params: Tensor,
    params: Tensor,
    total: Tensor,
    *,
    kl_scale: float,
    reverse_kl: bool,
) -> Evaluation:
    """KL, largest KL of a state, surrogate and entropy of these rows' share of the batch."""
    first, second = (params, old_params) if reverse_kl else (old_params, params)
    kl = kl_scale * head.kl(first, second)
    weights = normalised_weights(batch, total)
    counted = kl if batch.weights is None else torch.where(batch.weights > 0, kl, 0.0)
    if batch.actions is None:
        value = torch.zeros_like(total)
    else:
        value, _ = surrogate(head, batch, old_params, params, total)
    return Evaluation(
        (weights * kl).sum(), counted.amax(), value, (weights * head.entropy(params)).sum()
    )
