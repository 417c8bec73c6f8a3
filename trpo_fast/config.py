"""Every setting of a training run in one typed dataclass: defaults, presets by environment, TOML
files, checks.

Precedence, lowest first: defaults below, the preset of the environment's family, a TOML file,
arguments or flags.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from . import toml
from .arguments import check_counts
from .newcomers import nearest
from .presets import preset_for

MOST_ROWS = 2**31 - 1  # what kernels count to


@dataclass
class Config:
    """Settings of a run; each is a flag of ``trpo-fast train`` and an argument of ``TRPO``."""

    env: str = "CartPole-v1"
    """gymnasium id, name for EnvPool, or tensor environment"""
    engine: Literal["sync", "workers", "async", "envpool", "tensor"] = "sync"
    """who steps the copies: gymnasium in this process (sync), in this one and workers that share
    its memory (workers), in a process for each copy (async), EnvPool, or tensors on the device
    """
    workers: int | None = None
    """workers: processes beside this one; by default one for each further core"""
    num_envs: int = 8
    """copies of the environment"""
    rows_per_update: int = 2048
    """transitions per update, over all copies; rounded up to whole steps of every copy"""
    seed: int = 0
    device: str = "auto"
    """auto: where a tensor environment lives, otherwise the CPU"""
    backend: Literal["auto", "cpu", "cuda", "reference", "autograd"] = "auto"
    precision: Literal["fp32", "bf16x3", "bf16x6", "fp16x3", "tf32"] = "fp32"

    algorithm: Literal["trpo", "npg", "pg", "kl-penalty"] = "trpo"
    sampling: Literal["path", "vine"] = "path"
    """path: one trajectory per copy; vine: branch rollouts from saved states (needs a state
    adapter)
    """

    hidden: tuple[int, ...] = (64, 64)
    activation: Literal["tanh", "relu", "elu", "silu", "gelu", "identity"] = "tanh"
    std: Literal["free", "state"] = "free"
    """standard deviation of continuous actions: a free parameter, or an output of the net"""
    initial_log_std: float = 0.0
    action_mode: Literal["clip", "scale", "squash"] = "scale"
    """continuous actions: clip to the box; clip to [-1, 1] and scale to it; or tanh and scale"""

    gamma: float = 0.99
    gae_lambda: float = 0.95
    normalize_advantages: bool = True
    normalize_observations: bool = True
    normalize_rewards: bool = False
    """divide rewards by the running deviation of the discounted return"""
    observation_clip: float = 10.0

    max_kl: float = 0.01
    max_kl_final: float | None = None
    """where max_kl goes, from max_kl_hold environment steps on until max_kl_steps; without it
    max_kl stays
    """
    max_kl_hold: int = 0
    max_kl_steps: int = 1_000_000
    scale_kl: bool = False
    """smaller updates where the advantages vary less than they did on average: max_kl times
    min(1, their variance over its mean so far)
    """
    damping: float = 0.1
    cg_iterations: int = 10
    cg_tol: float = 0.0
    backtrack_ratio: float = 0.8
    backtrack_steps: int = 10
    kl_reduction: Literal["sum", "mean"] = "sum"
    """mean averages the KL over action dimensions, as sb3-contrib and omnisafe do"""
    kl_direction: Literal["forward", "reverse"] = "forward"
    """the KL that updates are held to: KL(old || new), or reverse KL(new || old)"""
    fvp_fraction: float = 1.0
    """share of the rows that Fisher-vector products use"""
    chunk_rows: int | None = None
    """bound the memory of an update: forward passes are recomputed in chunks of so many rows"""

    npg_learning_rate: float | None = None
    """npg: a fixed step on the natural gradient; without it the step is normalised to max_kl"""
    pg_learning_rate: float = 0.1
    pg_max_grad_norm: float | None = None
    """pg: gradients longer than this are shortened to it"""
    penalty: float = 1.0
    """kl-penalty: the first value of lambda"""
    penalty_rule: Literal["fixed", "adaptive", "dual"] = "adaptive"
    penalty_rate: float = 0.1
    """kl-penalty, dual: the rate of ascent on lambda"""
    penalty_inner: Literal["natural", "adam"] = "natural"
    """kl-penalty: one step on the natural gradient, or Adam on all rows"""
    penalty_adam_steps: int = 20
    penalty_learning_rate: float = 3e-4
    """kl-penalty, adam: the rate of its steps"""

    critic: Literal["adam", "gauss_newton"] = "adam"
    critic_hidden: tuple[int, ...] = (64, 64)
    critic_learning_rate: float = 4e-3
    critic_epochs: int = 10
    critic_minibatch: int = 1024
    critic_rows: float = 1.0
    """share of the rows that the critic is fitted to, drawn anew for every update"""
    critic_steps: int = 3
    """gauss_newton: second-order steps per update"""
    critic_cg_iterations: int = 10
    critic_damping: float = 0.01
    critic_fraction: float = 0.2
    """gauss_newton: share of the rows that curvature uses"""

    vine_states: int = 64
    """vine: states of the rollout set per update"""
    vine_branches: int = 4
    """vine: actions tried in each, where the action set is not small enough to try all"""
    vine_length: int = 32
    """vine: steps of a branch before the critic stands in for the rest"""

    def __post_init__(self) -> None:
        self.hidden = check_counts("hidden", self.hidden)
        self.critic_hidden = check_counts("critic_hidden", self.critic_hidden)
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None:
                _check_range(name, value, low, high)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is not None:
                raise ValueError(f"{field.name}: expected a value, got None")
            _check_choice(field.name, value)
            if isinstance(field.default, str):
                _check_name(field.name, value)
        for name in ("num_envs", "rows_per_update"):
            if getattr(self, name) > MOST_ROWS:
                raise ValueError(f"{name}: expected at most {MOST_ROWS}, got {getattr(self, name)}")
        if self.max_kl_final is not None and self.max_kl_hold >= self.max_kl_steps:
            raise ValueError(
                f"max_kl_hold: expected less than max_kl_steps {self.max_kl_steps}, "
                f"got {self.max_kl_hold}"
            )

    @property
    def steps_per_update(self) -> int:
        """T, the steps of every copy in one rollout."""
        return max(1, math.ceil(self.rows_per_update / self.num_envs))

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


# Inclusive bounds of numbers.
_RANGES: dict[str, tuple[float, float]] = {
    "workers": (0, math.inf),
    "num_envs": (1, math.inf),
    "rows_per_update": (1, math.inf),
    "seed": (0, 2**63 - 1),
    "gamma": (0.0, 1.0),
    "gae_lambda": (0.0, 1.0),
    "observation_clip": (1e-6, math.inf),
    "initial_log_std": (-20.0, 20.0),
    "max_kl": (1e-12, math.inf),
    "max_kl_final": (1e-12, math.inf),
    "max_kl_hold": (0, math.inf),
    "max_kl_steps": (1, math.inf),
    "damping": (0.0, math.inf),
    "cg_iterations": (1, math.inf),
    "cg_tol": (0.0, 1.0),
    "backtrack_ratio": (1e-6, 1.0 - 1e-6),
    "backtrack_steps": (1, math.inf),
    "fvp_fraction": (1e-6, 1.0),
    "chunk_rows": (1, math.inf),
    "npg_learning_rate": (1e-12, math.inf),
    "pg_learning_rate": (1e-12, math.inf),
    "pg_max_grad_norm": (1e-12, math.inf),
    "penalty": (1e-12, math.inf),
    "penalty_rate": (1e-12, math.inf),
    "penalty_adam_steps": (1, math.inf),
    "penalty_learning_rate": (1e-12, math.inf),
    "critic_learning_rate": (1e-12, math.inf),
    "critic_epochs": (1, math.inf),
    "critic_minibatch": (1, math.inf),
    "critic_rows": (1e-6, 1.0),
    "critic_steps": (1, math.inf),
    "critic_cg_iterations": (1, math.inf),
    "critic_damping": (0.0, math.inf),
    "critic_fraction": (1e-6, 1.0),
    "vine_states": (1, math.inf),
    "vine_branches": (2, math.inf),
    "vine_length": (1, math.inf),
}

_CHOICES: dict[str, tuple[str, ...]] = {
    name: get_args(hint)
    for name, hint in get_type_hints(Config).items()
    if get_origin(hint) is Literal
}

_WHOLE = {name for name, (low, _) in _RANGES.items() if isinstance(low, int)}


def _check_range(name: str, value: Any, low: float, high: float) -> None:
    kind = "an integer" if name in _WHOLE else "a number"
    number = int if name in _WHOLE else (int, float)
    good = isinstance(value, number) and not isinstance(value, bool) and low <= value <= high
    endless = good and value == math.inf and name != "observation_clip"  # which then clips nothing
    if not good or endless:
        kind = f"a finite {kind[2:]}" if endless else kind
        bounds = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise ValueError(f"{name}: expected {kind} {bounds}, got {value!r}")


def _check_choice(name: str, value: Any) -> None:
    if name in _CHOICES and value not in _CHOICES[name]:
        raise ValueError(f"{name}: expected one of {_CHOICES[name]}, got {value!r}")
    if (name.startswith("normalize_") or name == "scale_kl") and not isinstance(value, bool):
        raise ValueError(f"{name}: expected true or false, got {value!r}")


def _check_name(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a string, got {value!r}")


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
    _check_name("env", env)
    merged |= settings | {"env": env}
    if preset:
        merged = preset_for(env, merged.get("engine", Config.engine)) | merged
    return from_dict(merged)


def from_dict(values: dict[str, Any]) -> Config:
    """A config from names and values; unknown names are refused with the nearest known one."""
    known = {field.name for field in dataclasses.fields(Config)}
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
