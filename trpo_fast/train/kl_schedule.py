"""The limit on the KL of each update: annealed over the run, smaller where there is little to
learn from, and following how well the update's model predicts.

    progress_t = (steps - hold) / (end - hold), within [0, 1]
    max_kl_t = share_t radius_t (sqrt(max_kl) + progress_t (sqrt(max_kl_final) - sqrt(max_kl)))^2
    share_t  = min(1, var_t / mean(var_1 ... var_t)),     var_t = Var[A] of update t's rows

The step's length goes linearly, as a learning rate would. ``share`` undoes what the normalised step
hides: the step of a fixed penalty on the KL has a KL in proportion to Var[A], but one that always
reaches max_kl follows the critic's noise as far as it follows a signal. Once every episode goes
equally well, noise is all there is.

``radius`` is 1 unless ``kl_rule="gain"``, where it moves after each update with

    rho = (S(theta + s x) - S(theta)) / (s g'x),

the rise of the surrogate over that of its linear model: up by ``kl_factor`` where rho >= gain_good
and the whole step was taken, down by it where rho < gain_poor or no step was accepted.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from .._base.arguments import check_count, check_number, fail
from ..updates.info import UpdateInfo
from .config import Config

SMALLEST_SHARE = 1e-4  # the step of such an update is a hundredth of a whole one


class TrustRegion:
    """What max_kl is at each update: a function of the settings, the steps so far, and the state
    that a checkpoint saves.
    """

    def __init__(self, config: Config) -> None:
        self.start = config.max_kl
        self.final = config.max_kl if config.max_kl_final is None else config.max_kl_final
        self.hold, self.end = config.max_kl_hold, config.max_kl_steps
        self.scaled = config.scale_kl
        self.updates, self.mean_variance, self.share = 0, 0.0, 1.0
        self.moves, self.radius, self.factor = config.kl_rule == "gain", 1.0, config.kl_factor
        self.least, self.most = config.kl_least, config.kl_most
        self.poor, self.good = config.gain_poor, config.gain_good

    def update_share(self, advantages: Tensor) -> None:
        """Set ``share`` from an update's advantages [N], before they are normalised. Waits for
        their device, and does nothing unless ``scale_kl`` is set.
        """
        if not self.scaled:
            return
        variance = float(advantages.var(unbiased=False))
        if not math.isfinite(variance):
            return  # the update says what is wrong with them
        self.updates += 1
        self.mean_variance += (variance - self.mean_variance) / self.updates
        share = variance / self.mean_variance if self.mean_variance > 0.0 else 1.0
        self.share = min(1.0, max(share, SMALLEST_SHARE))

    def update_radius(self, info: UpdateInfo, steps: int) -> None:
        """Set ``radius`` after an update that began after so many environment steps. Waits for its
        numbers, and does nothing unless ``kl_rule`` is "gain".
        """
        if not self.moves:
            return
        factor = 1.0
        if info.reason == "line_search_failed":
            factor = 1.0 / self.factor
        elif info.accepted and predicted_gain(info) > 0.0:
            rho = (info.surrogate_after - info.surrogate_before) / predicted_gain(info)
            if rho < self.poor:
                factor = 1.0 / self.factor
            elif rho >= self.good and info.backtracks == 0:
                factor = self.factor
        scheduled = self.scheduled(steps)
        self.radius = min(max(factor * self.radius * scheduled, self.least), self.most) / scheduled

    def scheduled(self, steps: int) -> float:
        """The annealed max_kl alone."""
        if self.final == self.start:
            return self.start
        progress = min(1.0, max(0.0, (steps - self.hold) / (self.end - self.hold)))
        length = math.sqrt(self.start) * (1.0 - progress) + math.sqrt(self.final) * progress
        return length**2

    def limit(self, steps: int) -> float:
        """max_kl of an update after so many environment steps."""
        return self.share * self.radius * self.scheduled(steps)

    def state_dict(self) -> dict[str, Any]:
        return {
            "updates": self.updates,
            "mean_variance": self.mean_variance,
            "share": self.share,
            "radius": self.radius,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = check_count("updates", state["updates"], least=0)
        self.mean_variance = check_number("mean_variance", state["mean_variance"], least=0.0)
        share = check_number("share", state["share"], least=SMALLEST_SHARE)
        if share > 1.0:
            raise fail("share", "a number up to 1", share)
        self.share = share
        # Absent in checkpoints from before it could move.
        self.radius = check_number("radius", state.get("radius", 1.0), above=0.0)


def predicted_gain(info: UpdateInfo) -> float:
    """s g'x of the step s x that was taken."""
    return info.step_size * info.linear_gain
