"""Advantages and returns of a rollout: GAE(lambda), n-step and discounted sums, over [T, E] arrays
on any device.

    delta_t = r_t + gamma V'_t - V_t,     A_t = delta_t + gamma lambda (1 - done_t) A_{t+1}

V'_t is the value of what followed step t: zero after a termination, the final observation's after a
truncation, the next row's otherwise. ``done_t`` cuts the sum in both cases, so nothing leaks
between episodes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from .._base.ranks import Ranks, members
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


def n_step(
    rewards: Tensor, values: Tensor, following: Tensor, done: Tensor, *, gamma: float, steps: int
) -> Tensor:
    """Q_t - V_t [T, E] with the rewards of ``steps`` steps, or of those up to the end of the
    episode or the rollout, and the value of what followed them; arguments as for ``gae``:

        Q_t = r_t + gamma r_{t+1} + ... + gamma^{n-1} r_{t+n-1} + gamma^n V(s_{t+n})

    It is the sum of the first n terms of GAE(1): sum_{l < n} gamma^l delta_{t+l}.
    """
    delta = rewards + gamma * following - values
    return reverse_scan(delta, (~done).to(delta.dtype) * gamma, steps)


def discounted_returns(rewards: Tensor, following: Tensor, done: Tensor, *, gamma: float) -> Tensor:
    """R_t = r_t + gamma R_{t+1} within an episode, bootstrapped with gamma V'_t where it ends or
    the rollout does.
    """
    cut = done.clone()
    cut[-1].fill_(True)
    tail = torch.where(cut, rewards + gamma * following, rewards)
    return reverse_scan(tail, (~cut).to(tail.dtype) * gamma)


def reverse_scan(terms: Tensor, decay: Tensor, steps: int | None = None) -> Tensor:
    """y_t = terms_t + decay_t y_{t+1} along the first dimension, y_T = 0; with ``steps``, the first
    so many terms of each sum only.

    By doubling: after pass k every y_t spans 2^k terms, so T steps cost log2(T) passes over the
    array in place of T small ones. A thousand tiny operators, the cost of the plain loop on any
    device, become a dozen large ones.
    """
    total, weight = terms.clone(), decay.clone()
    span, rows = 1, terms.shape[0]
    if steps is not None and steps < rows:
        return _first_terms(total, weight, steps)
    while span < rows:
        _double(total, weight, span)
        span *= 2
    return total


def _double(total: Tensor, weight: Tensor, span: int) -> None:
    """From sums over ``span`` terms and their weights to those over twice as many, in place."""
    rows = total.shape[0]
    # Read every operand before writing: row t needs row t + span of the pass before.
    added = weight[: rows - span] * total[span:]
    product = weight[: rows - span] * weight[span:]
    total[: rows - span] += added
    weight[: rows - span] = product
    weight[rows - span :].zero_()


def _first_terms(total: Tensor, weight: Tensor, steps: int) -> Tensor:
    """Sums over ``steps`` terms, put together from those over the powers of two in it."""
    rows, span, taken = total.shape[0], 1, 0
    result, ahead = torch.zeros_like(total), torch.ones_like(weight)
    while True:
        if steps & span:
            result[: rows - taken] += ahead[: rows - taken] * total[taken:]
            ahead[: rows - taken] *= weight[taken:]
            ahead[rows - taken :].zero_()
            taken += span
        if taken == steps:
            return result
        _double(total, weight, span)
        span *= 2


def episode_steps(done: Tensor, elapsed: Tensor, valid: Tensor | None = None) -> Tensor:
    """t [T, E]: how many steps of its episode came before each row, given those [E] that came
    before the rollout. Reset rows (``valid`` [T, E] False) are no steps.
    """
    counted = torch.ones_like(done, dtype=torch.int64) if valid is None else valid.long()
    after = elapsed + counted.cumsum(0)
    ended = torch.where(done, after, 0).cummax(0).values
    began = torch.cat((torch.zeros_like(ended[:1]), ended[:-1]))
    return after - counted - began


def discount_weights(steps: Tensor, gamma: float) -> Tensor:
    """gamma^t [...] of steps t [...], times a common factor that makes the largest of them 1."""
    return gamma ** (steps - steps.amin()).float()


def normalise(
    advantages: Tensor, weights: Tensor | None = None, *, group: ProcessGroup | None = None
) -> Tensor:
    """Zero mean and unit deviation over the rows that count; constant advantages become zeros. With
    a ``group``, over the rows of all its processes, each of which may have none.
    """
    if (ranks := members(group)) is not None:
        return _normalise_together(ranks, advantages, weights)
    if weights is None:
        centred = advantages - advantages.mean()
        variance = centred.square().mean()
    else:
        share = weights / weights.sum()
        centred = advantages - (share * torch.where(weights > 0, advantages, 0.0)).sum()
        variance = (share * torch.where(weights > 0, centred, 0.0).square()).sum()
    return centred / (variance.sqrt() + 1e-8)


def _normalise_together(ranks: Ranks, advantages: Tensor, weights: Tensor | None) -> Tensor:
    counted = torch.ones_like(advantages) if weights is None else weights
    counted = counted.double()
    values = torch.where(counted > 0, advantages, 0.0).double()
    total, sums = ranks.sum(torch.stack([counted.sum(), (counted * values).sum()])).unbind()
    centred = torch.where(counted > 0, values - sums / total, 0.0)
    variance = ranks.sum((counted * centred.square()).sum()) / total
    centre, deviation = (sums / total).to(advantages), variance.sqrt().to(advantages)
    return (advantages - centre) / (deviation + 1e-8)


def explained_variance(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - Var[target - predicted] / Var[target]; NaN where the targets do not vary."""
    spread = target.var(unbiased=False)
    left = (target - predicted).var(unbiased=False)
    return torch.where(spread > 0, 1.0 - left / spread, torch.nan)
