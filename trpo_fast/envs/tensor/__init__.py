"""Environments as batched tensors on any device; ``make(name, num_envs)`` finds them by their
gymnasium id.
"""

from __future__ import annotations

from typing import Any

from ..._base.arguments import fail
from .acrobot import Acrobot
from .base import TensorEnv, TensorEnvironment, TensorStep
from .cartpole import CartPole
from .lqr import LQR
from .mountain_car import MountainCarContinuous
from .pendulum import Pendulum
from .quadrotor import Quadrotor

REGISTRY: dict[str, type[TensorEnv]] = {
    "CartPole-v1": CartPole,
    "Pendulum-v1": Pendulum,
    "Acrobot-v1": Acrobot,
    "MountainCarContinuous-v0": MountainCarContinuous,
    "LQR-v0": LQR,
    "Quadrotor-v0": Quadrotor,
}


def make(name: str, num_envs: int, **options: Any) -> TensorEnv:
    """A tensor environment by its gymnasium id, as in ``make("CartPole-v1", 4096,
    device="cuda")``.
    """
    if name not in REGISTRY:
        raise ValueError(f"env: expected a tensor environment of {sorted(REGISTRY)}, got {name!r}")
    try:
        return REGISTRY[name](num_envs, **options)
    except TypeError as error:
        raise fail("env_options", f"arguments of {name}", error) from error


__all__ = [
    "LQR",
    "REGISTRY",
    "Acrobot",
    "CartPole",
    "MountainCarContinuous",
    "Pendulum",
    "Quadrotor",
    "TensorEnv",
    "TensorEnvironment",
    "TensorStep",
    "make",
]
