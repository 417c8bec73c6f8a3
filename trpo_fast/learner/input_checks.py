"""What an actor and a critic's fit are given, checked before anything runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._base.arguments import check_tensor, fail
from .._base.rows import Rows, count_rows, map_rows
from ..core.checks import check_mask, check_obs
from ..policy.net import MLPPolicy


def check_acting(
    policy: MLPPolicy,
    theta: Tensor,
    obs: Tensor,
    mask: Tensor | None,
    actions: Tensor,
    log_probs: Tensor,
    values: Tensor,
    seen: Tensor | None,
) -> None:
    """The tensors that a native actor reads and writes where they lie: each in one piece."""
    head = policy.head
    check_tensor("obs", obs, theta, (None, policy.spec.widths[0]))
    rows = obs.shape[0]
    if mask is not None:
        check_mask("mask", policy, theta, mask, rows)
    kind = (torch.int64,) if head.nvec else (theta.dtype,)
    check_tensor("actions", actions, theta, (rows, *head.action_shape), dtypes=kind)
    check_tensor("log_probs", log_probs, theta, (rows,))
    check_tensor("values", values, theta, (rows,))
    if seen is not None:
        check_tensor("seen", seen, theta, tuple(obs.shape))
    names = ("obs", "mask", "actions", "log_probs", "values", "seen")
    for name, value in zip(names, (obs, mask, actions, log_probs, values, seen), strict=True):
        if value is not None and (not value.is_contiguous() or value.is_neg()):
            got = "a negation put off" if value.is_neg() else f"strides {list(value.stride())}"
            raise fail(name, "a contiguous tensor of plain values", got)


def check_critic_batch(
    net: nn.Module,
    theta: Tensor,
    obs: Any,
    targets: Any,
    weights: Any,
    *,
    values: bool = True,
    none: bool = False,
) -> tuple[Rows, Tensor, Tensor | None]:
    """A critic's rows; rows of weight zero are left out and may hold anything. Without ``values``
    the targets are not looked at. With ``none`` there may be no row, or none of weight.
    """
    if not (none and isinstance(targets, Tensor) and targets.numel() == 0):
        obs = check_obs(net, theta, obs)
    rows = count_rows(obs)
    targets = check_tensor("targets", targets, theta, (rows,))
    if weights is not None:
        weights = check_tensor("weights", weights, theta, (rows,))
        if not bool((weights >= 0).all() & weights.isfinite().all()):
            raise fail("weights", "finite values of at least zero", "others")
        kept = weights > 0
        if not (none or bool(kept.any())):
            raise fail("weights", "a positive total", 0.0)
        obs = map_rows(lambda part: part[kept], obs)
        targets, weights = targets[kept], weights[kept]
    if values and not bool(targets.isfinite().all()):
        bad = int((~targets.isfinite()).nonzero()[0])
        raise fail("targets", "finite values", f"{float(targets[bad])} in row {bad}")
    return obs, targets, weights
