"""``Penalty``: the multiplier of a penalty on the KL, and the rule by which it moves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from .._base.choices import PenaltyRule
from .._base.options import PenaltySettings, UpdateSettings
from .._base.reads import may_read
from .._base.settings import declared
from ..core import checks

PENALTY = declared(PenaltySettings)
NEWTON = 0.5  # d log lambda / d log KL where KL = c / lambda^2
LARGEST_STEP = 10.0  # of lambda, up or down


class _Lambda:
    """A field that is a number, or 0-d float64 on a device until somebody asks for the number."""

    def __init__(self, default: float) -> None:
        self._default = default

    @overload
    def __get__(self, holder: None, owner: type) -> float: ...

    @overload
    def __get__(self, holder: object, owner: type) -> float: ...

    def __get__(self, holder: object | None, owner: type) -> float:
        if holder is None:
            return self._default
        value = vars(holder)["value"]
        if isinstance(value, Tensor):
            value = vars(holder)["value"] = float(value)
        number: float = value
        return number

    def __set__(self, holder: object, value: float | Tensor) -> None:
        vars(holder)["value"] = value


@dataclass
class Penalty:
    """The multiplier lambda of ``kl_penalty_update``; pass the same object to every update, save it
    with the policy.

    fixed      lambda stays
    adaptive   doubles when KL > 1.5 target_kl, halves when KL < target_kl / 1.5
    dual       ascent on the dual in log lambda: log lambda <- log lambda + rate log(KL / target_kl)

    ``adaptive`` moves lambda once an update, so that the first updates' KL may be far from
    target_kl; ``dual`` solves the dual problem of each batch, in rounds. Near a solution KL goes
    like 1 / lambda^2, so a rate of 1/2 is Newton's step and larger ones would overshoot: they count
    as 1/2. In log lambda no step can reach zero, and one step is tenfold at most. lambda stays
    within [min_value, max_value]. On a device it moves there; reading ``value`` waits for it.
    """

    value: _Lambda = _Lambda(PenaltySettings.penalty)
    rule: PenaltyRule = PenaltySettings.penalty_rule
    target_kl: float = UpdateSettings.max_kl
    rate: float = PenaltySettings.penalty_rate
    min_value: float = PenaltySettings.penalty_min
    max_value: float = PenaltySettings.penalty_max

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise ``ValueError`` for the first field that is out of its range."""
        if not isinstance(
            vars(self)["value"], Tensor
        ):  # one on a device was, and has moved within bounds
            self.value = PENALTY["penalty"].check(self.value, "value")
        self.rule = PENALTY["penalty_rule"].check(self.rule, "rule")
        self.target_kl = checks.UPDATE["max_kl"].check(self.target_kl, "target_kl")
        self.rate = PENALTY["penalty_rate"].check(self.rate, "rate")
        self.min_value = PENALTY["penalty_min"].check(self.min_value, "min_value")
        self.max_value = PENALTY["penalty_max"].check(self.max_value, "max_value")
        checks.check_number("max_value", self.max_value, least=self.min_value)

    def adjust(self, kl: float) -> None:
        """Move lambda after a step that reached this KL."""
        if not math.isfinite(kl):
            return
        if self.rule == "adaptive" and kl > 1.5 * self.target_kl:
            self.value *= 2.0
        elif self.rule == "adaptive" and kl < self.target_kl / 1.5:
            self.value /= 2.0
        elif self.rule == "dual":
            excess = min(max(kl / self.target_kl, 1.0 / LARGEST_STEP**2), LARGEST_STEP**2)
            self.value *= excess ** min(self.rate, NEWTON)
        self.value = min(max(self.value, self.min_value), self.max_value)

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps: lambda."""
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on with the lambda of ``state_dict``."""
        self.value = PENALTY["penalty"].check(state["value"], "value")


def lambda_on(penalty: Penalty, like: Tensor) -> float | Tensor:
    """lambda for work on the device of ``like``: a 0-d tensor where it is there already and the
    host may not read it, otherwise the number.
    """
    held: float | Tensor = vars(penalty)["value"]
    here = isinstance(held, Tensor) and held.device == like.device
    return held if here and not may_read(like.device) else penalty.value


def adjusted(penalty: Penalty, value: Tensor, kl: Tensor, target_kl: Tensor) -> Tensor:
    """Where ``Penalty.adjust`` moves a lambda that is 0-d float64 on a device, as is all else."""
    moved = value
    if penalty.rule == "adaptive":
        moved = torch.where(kl > 1.5 * target_kl, 2.0 * value, moved)
        moved = torch.where(kl < target_kl / 1.5, value / 2.0, moved)
    elif penalty.rule == "dual":
        excess = (kl / target_kl).clamp(1.0 / LARGEST_STEP**2, LARGEST_STEP**2)
        moved = value * excess ** min(penalty.rate, NEWTON)
    moved = moved.clamp(penalty.min_value, penalty.max_value)
    return torch.where(torch.isfinite(kl), moved, value)
