"""Environments of simulators that are given as they are, and the class that each needs."""

from __future__ import annotations

from typing import Any

from ..._base.arguments import fail

# By the package that a class of the environment comes from.
ADAPTERS = {
    "brax": "Brax(env, num_envs)",
    "mujoco_playground": "Brax(env, num_envs)",
    "isaaclab": "IsaacLab(env)",
    "mjlab": "Mjlab(env)",
    "mani_skill": "ManiSkill(env)",
}


def check_wrapped(env: Any) -> None:
    """Refuse a simulator's environment that is not in its adapter, with the name of that."""
    if isinstance(env, str | type) or type(env).__module__.startswith("trpo_fast."):
        return
    kinds = [*type(env).__mro__, *type(getattr(env, "unwrapped", None)).__mro__]
    for kind in kinds:
        package = kind.__module__.partition(".")[0]
        if package in ADAPTERS:
            wanted = f"trpo_fast.envs.simulators.{ADAPTERS[package]}"
            raise fail("env", wanted, f"{type(env).__name__} of {package}, which is no tensor one")
