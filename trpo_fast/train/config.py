"""Every setting of a training run in one typed dataclass: defaults, presets by environment, TOML
files, checks.

Precedence, lowest first: defaults, here and in _base/options.py; the preset of the environment's
family; a TOML file; arguments or flags.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .._base import toml
from .._base.arguments import fail
from .._base.net_options import CriticSettings, PolicySettings
from .._base.options import (
    GradientSettings,
    KernelSettings,
    PenaltySettings,
    RatSettings,
    UpdateSettings,
)
from .._base.settings import Setting, check_all, declared
from .other_libraries import nearest
from .presets import IMAGES, preset_for
from .settings import AlgorithmSettings, EnvironmentSettings, RolloutSettings, VineSettings


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
        if self.policy != "auto":
            check_used(self, self.policy, f"policy={self.policy!r}")
        if not len(self.cnn_channels) == len(self.cnn_kernels) == len(self.cnn_strides):
            raise ValueError(
                f"cnn_channels: expected as many as cnn_kernels {self.cnn_kernels} and cnn_strides "
                f"{self.cnn_strides}, got {self.cnn_channels}"
            )
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


def unused(kind: str) -> Iterator[Setting]:
    """The settings that a policy of this kind does not use: one of the words of ``policy``, or
    "own" for a module of any kind, beside which the critic may look at images.
    """
    for setting in declared(Config).values():
        known = setting.policies
        if known and kind not in known and not (kind == "own" and "cnn" in known):
            yield setting


def check_used(config: Config, kind: str, policy: str) -> None:
    """Refuse settings that were chosen and that the ``policy``, of this kind, does not use."""
    for setting in unused(kind):
        if (value := getattr(config, setting.name)) != setting.default:
            others = " and ".join(map(repr, setting.policies))
            verb = "use" if len(setting.policies) > 1 else "uses"
            wanted = f"none beside {policy} (policy={others} {verb} it)"
            raise fail(setting.name, wanted, repr(value))


def without_unused(values: dict[str, Any], kind: str) -> dict[str, Any]:
    """Names and values of settings without those that a policy of this kind does not use."""
    names = {setting.name for setting in unused(kind)}
    return {name: value for name, value in values.items() if name not in names}


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
        if merged.get("policy") == "cnn":
            merged = IMAGES | merged
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
