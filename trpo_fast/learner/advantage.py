"""Advantages and returns of a rollout: GAE(lambda) and discounted sums, over [T, E] arrays on any
device.

    delta_t = r_t + gamma V'_t - V_t,     A_t = delta_t + gamma lambda (1 - done_t) A_{t+1}

V'_t is the value of what followed step t: zero after a termination, the final observation's after a
truncation, the next row's otherwise. ``done_t`` cuts the sum in both cases, so nothing leaks
between episodes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..backends.fallback import or_reference
from ..backends.support import PYTORCH, SERVES, Support, choose
from .advantage_cuda import cuda_gae, cuda_gae_support


def _host_support(rewards: Tensor) -> Support:
    """Whether PyTorch's operators are to estimate them on the CPU."""
    if rewards.device.type != "cpu":
        return Support(f"rewards: expected a tensor on the CPU, got one on {rewards.device}")
    return SERVES


SUPPORTS: dict[str, Callable[..., Support]] = {
    "cpu": _host_support,
    "cuda": cuda_gae_support,
    **PYTORCH,
}


def next_values(
    values: Tensor,
    last_values: Tensor,
    terminated: Tensor,
    truncated: Tensor | None = None,
    final_values: Tensor | None = None,
) -> Tensor:
    """V' [T, E] from values [T, E] of the rows and last_values [E] of the observation after the
    last.

    ``final_values [T, E]`` holds the final observation's value where a row was ``truncated``
    [T, E], and is not read elsewhere; without it the row after a truncation must hold the final
    observation itself (gymnasium's next-step autoreset).
    """
    following = torch.cat((values[1:], last_values[None]))
    if final_values is not None:
        assert truncated is not None, "final values are those of truncated rows"
        following = torch.where(truncated, final_values, following)
    return following.masked_fill(terminated, 0.0)


def gae(
    rewards: Tensor,
    values: Tensor,
    following: Tensor,
    done: Tensor,
    *,
    gamma: float,
    lam: float,
    backend: str = "auto",
) -> Tensor:
    """Generalised advantage estimates [T, E]; all arguments [T, E], ``following`` as
    ``next_values`` gives it.

    One launch for float32 tensors on a CUDA device; ``backend="cuda"`` insists on it. The others
    are PyTorch's operators.
    """
    chosen = choose(backend, SUPPORTS, rewards, can="estimate advantages")

    def estimate(name: str) -> Tensor:
        if name == "cuda":
            return cuda_gae(rewards, values, following, done, gamma=gamma, lam=lam)
        delta = rewards + gamma * following - values
        decay = (~done).to(delta.dtype) * (gamma * lam)
        return reverse_scan(delta, decay)

    return or_reference(backend, chosen, estimate, gae, rewards)


def discounted_returns(rewards: Tensor, following: Tensor, done: Tensor, *, gamma: float) -> Tensor:
    """R_t = r_t + gamma R_{t+1} within an episode, bootstrapped with gamma V'_t where it ends or
    the rollout does.
    """
    cut = done.clone()
    cut[-1] = True
    tail = torch.where(cut, rewards + gamma * following, rewards)
    return reverse_scan(tail, (~cut).to(tail.dtype) * gamma)


def reverse_scan(terms: Tensor, decay: Tensor) -> Tensor:
    """y_t = terms_t + decay_t y_{t+1} along the first dimension, y_T = 0.

    By doubling: after pass k every y_t spans 2^k terms, so T steps cost log2(T) passes over the
    array in place of T small ones. A thousand tiny operators, the cost of the plain loop on any
    device, become a dozen large ones.
    """
    total, weight = terms.clone(), decay.clone()
    span, rows = 1, terms.shape[0]
    while span < rows:
        # Read every operand before writing: row t needs row t + span of the pass before.
        added = weight[: rows - span] * total[span:]
        product = weight[: rows - span] * weight[span:]
        total[: rows - span] += added
        weight[: rows - span] = product
        weight[rows - span :] = 0.0
        span *= 2
    return total


def normalise(advantages: Tensor, weights: Tensor | None = None) -> Tensor:
    """Zero mean and unit deviation over the rows that count; constant advantages become zeros."""
    if weights is None:
        centred = advantages - advantages.mean()
        variance = centred.square().mean()
    else:
        share = weights / weights.sum()
        centred = advantages - (share * torch.where(weights > 0, advantages, 0.0)).sum()
        variance = (share * torch.where(weights > 0, centred, 0.0).square()).sum()
    return centred / (variance.sqrt() + 1e-8)


def explained_variance(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - Var[target - predicted] / Var[target]; NaN where the targets do not vary."""
    spread = target.var(unbiased=False)
    left = (target - predicted).var(unbiased=False)
    return torch.where(spread > 0, 1.0 - left / spread, torch.nan)
