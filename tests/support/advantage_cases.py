"""Random episodes, and their advantages by brute force."""

from __future__ import annotations

import torch
from torch import Tensor

from trpo_fast.learner import advantage


def rollout(steps: int, envs: int, seed: int) -> dict[str, Tensor]:
    """Random rewards, values and endings, terminations and truncations both."""
    draw = torch.Generator().manual_seed(seed)
    ends = torch.rand(steps, envs, generator=draw)
    random = {
        name: torch.randn(steps, envs, dtype=torch.float64, generator=draw)
        for name in ("rewards", "values", "final")
    }
    last = torch.randn(envs, dtype=torch.float64, generator=draw)
    terminated, truncated = ends < 0.1, (ends >= 0.1) & (ends < 0.2)
    final = torch.where(truncated, random.pop("final"), torch.nan)
    return {
        **random,
        "final": final,
        "last": last,
        "terminated": terminated,
        "truncated": truncated,
    }


def following_values(r: dict[str, Tensor]) -> Tensor:
    names = ("values", "last", "terminated", "truncated", "final")
    return advantage.next_values(*(r[name] for name in names))


def brute_gae(r: dict[str, Tensor], gamma: float, lam: float) -> Tensor:
    steps, envs = r["rewards"].shape
    result = torch.zeros(steps, envs, dtype=torch.float64)
    for e in range(envs):
        ahead = 0.0
        for t in reversed(range(steps)):
            value = r["values"][t + 1, e] if t + 1 < steps else r["last"][e]
            if r["terminated"][t, e]:
                value, ahead = torch.tensor(0.0), 0.0
            elif r["truncated"][t, e]:
                value, ahead = r["final"][t, e], 0.0
            delta = r["rewards"][t, e] + gamma * value - r["values"][t, e]
            ahead = float(delta + gamma * lam * ahead)
            result[t, e] = ahead
    return result


def brute_n_step(r: dict[str, Tensor], gamma: float, count: int) -> Tensor:
    """Q_t - V_t [T, E] with ``count`` rewards, as the formula has it."""
    steps, envs = r["rewards"].shape
    result = torch.zeros(steps, envs, dtype=torch.float64)
    for e in range(envs):
        for t in range(steps):
            total, last = 0.0, min(t + count, steps) - 1
            for l in range(t, last + 1):
                total += gamma ** (l - t) * float(r["rewards"][l, e])
                if r["terminated"][l, e] or r["truncated"][l, e] or l == last:
                    after = r["values"][l + 1, e] if l + 1 < steps else r["last"][e]
                    after = r["final"][l, e] if r["truncated"][l, e] else after
                    after = 0.0 if r["terminated"][l, e] else float(after)
                    result[t, e] = total + gamma ** (l - t + 1) * after - r["values"][t, e]
                    break
    return result
