"""Running statistics: a mean and a deviation that batches are merged into, in float64, for
observations and returns.

Merging is Chan's: with batch (m, mean_b, M2_b) into (n, mean, M2) and d = mean_b - mean,

    mean <- mean + d m / (n + m),     M2 <- M2 + M2_b + d^2 n m / (n + m)
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from .._base.reads import may_read
from .._base.rows import Rows, map_rows, parts_of

MAX_SUM = 1e45  # sums of a million float32 rewards


class RunningStatistics:
    """Mean and variance [S] of everything merged so far. Statistics live in float64 on the data's
    device.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.mean = torch.zeros(size, dtype=torch.float64, device=device)
        self.spread = torch.zeros(size, dtype=torch.float64, device=device)  # M2

    def merge(self, rows: Tensor) -> None:
        """Add rows [N, S]."""
        rows = rows.to(self.mean.dtype)
        mean = rows.mean(0)
        spread = (rows - mean).square().sum(0)
        self.merge_moments(float(rows.shape[0]), mean, spread)

    def merge_moments(self, count: float | Tensor, mean: Tensor, spread: Tensor) -> None:
        """Add a batch by its count, mean and sum of squared deviations. One that is not finite is
        left out: the update that refuses its rows comes later, and these would never recover.
        """
        fine = torch.isfinite(mean).all() & torch.isfinite(spread).all()
        total = self.count + count
        shift = mean - self.mean
        moved = self.spread + spread + shift.square() * (self.count * count / total)
        self.mean = torch.where(fine, self.mean + shift * (count / total), self.mean)
        self.spread = torch.where(fine, moved, self.spread)
        self.count = torch.where(fine, total, self.count)

    @property
    def variance(self) -> Tensor:
        """[S]; one until anything was merged."""
        return torch.where(self.count > 0, self.spread / self.count.clamp_min(1.0), 1.0)

    def state_dict(self) -> dict[str, Tensor]:
        return {"count": self.count, "mean": self.mean, "spread": self.spread}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state["mean"].shape != self.mean.shape:
            wanted, got = self.mean.numel(), state["mean"].numel()
            raise ValueError(f"state: expected statistics of size {wanted}, got {got}")
        number, mean, spread = state["count"], state["mean"], state["spread"]
        same = mean.shape == spread.shape and number.ndim == 0
        fine = same and {value.dtype for value in (number, mean, spread)} == {torch.float64}
        # What float32 rows may have: anything larger would end as NaN.
        fine = fine and 0.0 <= float(number) < math.inf and bool((mean.abs() < MAX_SUM).all())
        fine = fine and bool(((spread >= 0.0) & (spread <= number * MAX_SUM**2)).all())
        if not fine:
            kinds = "float64 statistics: a count, means, squared deviations of at least 0, finite"
            raise ValueError(f"state: expected {kinds}, got others")
        for name in ("count", "mean", "spread"):
            setattr(self, name, state[name].to(self.mean.device, torch.float64, copy=True))


Values = TypeVar("Values", Tensor, np.ndarray)


def normalised(obs: Values, shift: Values, scale: Values, clip: float) -> Values:
    """What a policy sees of observations [..., O]: (obs - shift) scale, clipped to plus and minus
    ``clip``. The kernels' twin is csrc/shared/normalise.h.
    """
    return ((obs - shift) * scale).clip(-clip, clip)


class ObservationNormaliser:
    """(obs - mean) / std, clipped. Frozen while a rollout is collected: a row must mean the same to
    the policy that chose its action and to the update that judges it.
    """

    def __init__(
        self, size: int, *, clip: float = 10.0, device: torch.device | str = "cpu"
    ) -> None:
        self.statistics = RunningStatistics(size, device)
        self.clip = clip
        self._freeze()

    def _freeze(self) -> None:
        self.shift = self.statistics.mean.float()
        self.scale = (self.statistics.variance + 1e-8).rsqrt().float()
        # The host collector works on arrays: one small tensor operator costs several of numpy's.
        if may_read(self.shift.device):
            self.host_shift: np.ndarray = self.shift.numpy()
            self.host_scale: np.ndarray = self.scale.numpy()

    @property
    def device(self) -> torch.device:
        """Where the statistics are."""
        return self.shift.device

    def __call__(self, obs: Tensor) -> Tensor:
        """Normalised observations [..., O]."""
        return normalised(obs, self.shift, self.scale, self.clip)

    def on_host(self, obs: np.ndarray) -> np.ndarray:
        """The same of arrays, where the statistics are on the CPU."""
        return normalised(obs, self.host_shift, self.host_scale, self.clip)

    def update(self, obs: Tensor) -> None:
        """Merge a rollout's raw observations [N, O] and use the result from now on."""
        self.statistics.merge(obs)
        self._freeze()

    def state_dict(self) -> dict[str, Any]:
        return self.statistics.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.statistics.load_state_dict(state)
        self._freeze()


class KeyedNormaliser:
    """A normaliser for every vector among the parts of observations; the others stay as they are.
    ``sizes`` has their structure, with the numbers of a vector or None for each part.
    """

    def __init__(
        self, sizes: Any, *, clip: float = 10.0, device: torch.device | str = "cpu"
    ) -> None:
        def normaliser(size: int | None) -> ObservationNormaliser | None:
            return None if size is None else ObservationNormaliser(size, clip=clip, device=device)

        self.clip = clip
        self.parts: Any = map_rows(normaliser, sizes)
        self._named = {name: one for name, one in parts_of(self.parts) if one is not None}

    @property
    def device(self) -> torch.device:
        """Where the statistics are."""
        return next(iter(self._named.values())).device

    def __call__(self, obs: Rows) -> Rows:
        """Normalised observations, every part [..., *shape]."""
        shown: Rows = map_rows(
            lambda one, part: part if one is None else one(part), self.parts, obs
        )
        return shown

    def on_host(self, obs: Any) -> Any:
        """The same of arrays, where the statistics are on the CPU."""
        return map_rows(
            lambda one, part: part if one is None else one.on_host(part), self.parts, obs
        )

    def update(self, obs: Rows) -> None:
        """Merge a rollout's raw observations [N, ...] and use the result from now on."""
        map_rows(lambda one, part: None if one is None else one.update(part), self.parts, obs)

    def state_dict(self) -> dict[str, Any]:
        return {name: one.state_dict() for name, one in self._named.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, one in self._named.items():
            one.load_state_dict(state[name])


Normaliser: TypeAlias = "ObservationNormaliser | KeyedNormaliser"


class RewardScaler:
    """Divides rewards by the running deviation of the discounted return, as the critic and the logs
    see them.

    TRPO's step does not depend on the scale of normalised advantages; a critic's learning rate
    does.
    """

    def __init__(
        self, num_envs: int, gamma: float, *, clip: float = 10.0, device: torch.device | str = "cpu"
    ) -> None:
        self.statistics = RunningStatistics(1, device)
        self.gamma, self.clip = gamma, clip
        self.running = torch.zeros(num_envs, dtype=torch.float64, device=device)

    def __call__(self, rewards: Tensor, done: Tensor, valid: Tensor | None = None) -> Tensor:
        """Scaled rewards [T, E]; the rollout's own returns count towards the deviation first,
        those of reset rows (``valid`` [T, E] False) excepted.
        """
        from .advantage import reverse_scan

        # Forward sums R_t = gamma (1 - done_{t-1}) R_{t-1} + r_t are a reverse scan of the reversed
        # rollout.
        keep = self.gamma * torch.cat((torch.ones_like(done[:1]), ~done[:-1])).double()
        terms = rewards.double().clone()
        if valid is not None:
            terms.masked_fill_(~valid, 0.0)
        terms[0] += keep[0] * self.running
        forward = reverse_scan(terms.flip(0), keep.flip(0)).flip(0)
        self.running = torch.where(done[-1] | ~forward[-1].isfinite(), 0.0, forward[-1])
        counted = forward if valid is None else forward[valid]
        self.statistics.merge(counted.reshape(-1, 1))
        scale = (self.statistics.variance + 1e-8).rsqrt().to(rewards.dtype)
        return (rewards * scale).clamp(-self.clip, self.clip)

    def state_dict(self) -> dict[str, Tensor]:
        return {**self.statistics.state_dict(), "running": self.running}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.statistics.load_state_dict(state)
        running = state["running"]
        if running.shape != self.running.shape or not bool((running.abs() < MAX_SUM).all()):
            raise ValueError(f"state: expected {len(self.running)} finite returns, got others")
        self.running = state["running"].to(self.running.device, torch.float64, copy=True)
