"""Every setting of a training run in one typed dataclass: defaults, presets by environment, TOML
files, checks.

Precedence, lowest first: defaults, here and in _base/options.py; the preset of the environment's
family; a TOML file; arguments or flags.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Annotated, Any

from typing_extensions import Doc

from .._base import toml
from .._base.choices import AdvantageEstimator, Algorithm, Engine, KlRule, Sampling, VineActions
from .._base.options import (
    COUNT,
    LONG,
    CriticSettings,
    GradientSettings,
    KernelSettings,
    PenaltySettings,
    PolicySettings,
    RatSettings,
    UpdateSettings,
)
from .._base.settings import Above, AtLeast, AtMost, OrInfinite, check_all, declared
from .other_libraries import nearest
from .presets import preset_for


@dataclass
class EnvironmentSettings:
    """Which environment, who steps its copies, and where."""

    env: Annotated[str, Doc("gymnasium id, name for EnvPool, or name of a tensor environment")] = (
        "CartPole-v1"
    )
    engine: Annotated[
        Engine,
        Doc(
            "who steps the copies: gymnasium in this process (sync), in this one and workers that "
            "share its memory (workers), in a process for each copy (async), EnvPool, or tensors "
            "on the device"
        ),
    ] = "sync"
    workers: Annotated[
        int | None,
        AtLeast(0),
        COUNT,
        Doc("engine workers: processes beside this one; by default one for each further core"),
    ] = None
    num_envs: Annotated[int, AtLeast(1), AtMost(10**6), Doc("copies of the environment")] = 8
    seed: Annotated[int, AtLeast(0), LONG, Doc("of weights, actions, minibatches and episodes")] = 0
    device: Annotated[
        str,
        Doc("cpu, cuda, cuda:0, ...; auto: where a tensor environment lives, otherwise the CPU"),
    ] = "auto"


@dataclass
class RolloutSettings:
    """What one update learns from: rows, advantages, and how both are normalised."""

    rows_per_update: Annotated[
        int,
        AtLeast(1),
        COUNT,
        Doc("transitions per update, over all copies; rounded up to whole steps of every copy"),
    ] = 2048
    sampling: Annotated[
        Sampling,
        Doc(
            "path: one trajectory per copy; vine: branches from saved states as well, for "
            "environments whose states can be saved"
        ),
    ] = "path"
    gamma: Annotated[
        float,
        AtLeast(0.0),
        AtMost(1.0),
        Doc("discount of a reward per step; rows are not weighed by it, see discount_weights"),
    ] = 0.99
    discount_weights: Annotated[
        bool,
        Doc("weigh the row of step t of an episode by gamma^t, in the surrogate and in the KL"),
    ] = False
    advantage: Annotated[
        AdvantageEstimator,
        Doc(
            "gae: generalised advantage estimation; n_step: rewards of n_step steps, then the "
            "critic, minus the critic; returns: the discounted return itself, without a baseline"
        ),
    ] = "gae"
    gae_lambda: Annotated[
        float, AtLeast(0.0), AtMost(1.0), Doc("gae: 0 trusts the critic, 1 the rewards")
    ] = 0.95
    n_step: Annotated[
        int, AtLeast(1), COUNT, Doc("n_step: rewards before the critic stands in for the rest")
    ] = 5
    normalize_advantages: Annotated[
        bool, Doc("shift and scale the advantages of an update to mean 0 and deviation 1")
    ] = True
    normalize_observations: Annotated[
        bool, Doc("shift and scale observations by their running mean and deviation")
    ] = True
    normalize_rewards: Annotated[
        bool, Doc("divide rewards by the running deviation of the discounted return")
    ] = False
    observation_clip: Annotated[
        float,
        Above(0.0),
        OrInfinite(),
        Doc("normalised observations are clipped to plus and minus this; inf clips nothing"),
    ] = 10.0


@dataclass
class AlgorithmSettings:
    """Which update moves the policy, and how its limit changes over a run."""

    algorithm: Annotated[
        Algorithm,
        Doc(
            "trpo: natural gradient with a line search; npg: without one; pg: plain gradient; "
            "kl-penalty: a penalty on the KL in place of a limit; rat: as trpo, by a direct solve "
            "among the rows"
        ),
    ] = "trpo"
    max_kl_final: Annotated[
        float | None,
        Above(0.0),
        Doc(
            "where max_kl goes, from max_kl_hold environment steps on until max_kl_steps; without "
            "it max_kl stays"
        ),
    ] = None
    max_kl_hold: Annotated[
        int, AtLeast(0), LONG, Doc("environment steps before max_kl begins to change")
    ] = 0
    max_kl_steps: Annotated[
        int, AtLeast(1), LONG, Doc("environment steps at which max_kl_final is reached")
    ] = 1_000_000
    scale_kl: Annotated[
        bool,
        Doc(
            "smaller updates where the advantages vary less than they did on average: max_kl times "
            "min(1, their variance over its mean so far)"
        ),
    ] = False
    kl_rule: Annotated[
        KlRule,
        Doc(
            "gain: max_kl grows after an update whose surrogate rose about as much as the gradient "
            "says, shrinks after one where it rose much less or no step was accepted"
        ),
    ] = "fixed"
    kl_least: Annotated[float, Above(0.0), Doc("gain: max_kl is never less")] = 1e-4
    kl_most: Annotated[float, Above(0.0), Doc("gain: max_kl is never more")] = 0.05
    kl_factor: Annotated[
        float, Above(1.0), Doc("gain: max_kl is multiplied or divided by this")
    ] = 1.5
    gain_poor: Annotated[
        float, Doc("gain: max_kl shrinks where the rise is a smaller share of the predicted one")
    ] = 0.5
    gain_good: Annotated[
        float, Doc("gain: max_kl grows where the rise is a larger share of the predicted one")
    ] = 0.9
    updates_per_rollout: Annotated[
        int,
        AtLeast(1),
        COUNT,
        Doc(
            "updates on the rows of one rollout; update j of n may go to a KL of (j / n)^2 max_kl "
            "from the policy that sampled them"
        ),
    ] = 1
    fvp_fraction: Annotated[
        float, Above(0.0), AtMost(1.0), Doc("share of the rows that Fisher-vector products use")
    ] = 1.0


@dataclass
class VineSettings:
    """Branches from saved states, with sampling vine."""

    vine_states: Annotated[int, AtLeast(1), COUNT, Doc("states of the rollout set per update")] = 64
    vine_branches: Annotated[
        int,
        AtLeast(2),
        COUNT,
        Doc("actions tried in each, where the action set is not small enough to try all"),
    ] = 4
    vine_actions: Annotated[
        VineActions,
        Doc(
            "where not all are tried, actions are drawn from the policy; or, of a discrete set, "
            "each with the same probability"
        ),
    ] = "policy"
    vine_length: Annotated[
        int, AtLeast(1), COUNT, Doc("steps of a branch before the critic stands in for the rest")
    ] = 32


# A dataclass has the fields of its last base first.
@dataclass
class Config(
    VineSettings,
    CriticSettings,
    PenaltySettings,
    RatSettings,
    GradientSettings,
    KernelSettings,
    UpdateSettings,
    AlgorithmSettings,
    PolicySettings,
    RolloutSettings,
    EnvironmentSettings,
):
    """Settings of a run; each is a flag of ``trpo-fast train`` and an argument of ``TRPO``."""

    def __post_init__(self) -> None:
        check_all(self)
        if self.max_kl_final is not None and self.max_kl_hold >= self.max_kl_steps:
            raise ValueError(
                f"max_kl_hold: expected less than max_kl_steps {self.max_kl_steps}, "
                f"got {self.max_kl_hold}"
            )
        if self.kl_rule == "gain":
            self._check_gain()
        if self.penalty_min > self.penalty_max:
            raise ValueError(
                f"penalty_max: expected at least penalty_min {self.penalty_min:g}, "
                f"got {self.penalty_max:g}"
            )

    def _check_gain(self) -> None:
        """The bounds of kl_rule="gain", in their order."""
        bounds = (self.kl_least, self.max_kl, self.kl_most)
        if not bounds[0] <= bounds[1] <= bounds[2]:
            raise ValueError(
                f"max_kl: expected a number from kl_least {bounds[0]:g} to kl_most {bounds[2]:g} "
                f"with kl_rule='gain', got {bounds[1]:g}"
            )
        if self.gain_poor > self.gain_good:
            raise ValueError(
                f"gain_good: expected at least gain_poor {self.gain_poor:g}, got {self.gain_good:g}"
            )

    @property
    def steps_per_update(self) -> int:
        """T, the steps of every copy in one rollout."""
        return max(1, math.ceil(self.rows_per_update / self.num_envs))

    def as_dict(self) -> dict[str, Any]:
        """Every setting by name."""
        return dataclasses.asdict(self)


def groups() -> dict[str, Any]:
    """The dataclasses that ``Config`` has its settings from, in their order, by a short name."""
    return {
        base.__name__.removesuffix("Settings").lower(): base for base in reversed(Config.__bases__)
    }


def make_config(
    env: str | None = None,
    *,
    file: str | os.PathLike[str] | None = None,
    preset: bool = True,
    **settings: Any,
) -> Config:
    """Settings for an environment: its preset, then a TOML file, then the given ones. The
    environment is the given one, or else the file's; a file's engine counts for the preset.
    """
    merged: dict[str, Any] = {} if file is None else read_toml(file)
    env = merged.get("env", Config.env) if env is None else env
    declared(Config)["env"].check(env)
    merged |= settings | {"env": env}
    if preset:
        merged = preset_for(env, merged.get("engine", Config.engine)) | merged
    return from_dict(merged)


def from_dict(values: dict[str, Any]) -> Config:
    """A config from names and values; unknown names are refused with the nearest known one."""
    known = set(declared(Config))
    for name in values:
        if name not in known:
            raise ValueError(
                f"{name}: expected a setting{nearest(name, known)}, got an unknown name"
            )
    return Config(**values)


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Settings from a TOML file of ``name = value`` lines."""
    return toml.read(path)


def write_toml(config: Config, path: str | os.PathLike[str]) -> None:
    """The settings as a TOML file that ``read_toml`` reads; every one of them, so that the file
    gives the same run whatever presets become.
    """
    toml.write(path, config.as_dict())
