"""The settings of rsl_rl's ``TRPO``: those of this package's updates and critic by their names, the
rest as PPO has them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from ..._base.arguments import fail
from ..._base.net_options import CriticSettings
from ..._base.options import KernelSettings, UpdateSettings
from ..._base.settings import declared

STEP = {**declared(UpdateSettings), **declared(KernelSettings)}
CRITIC = declared(CriticSettings)
# Setting -> its name in the fit.
FIT = {
    "critic_steps": "steps",
    "critic_cg_iterations": "cg_iterations",
    "critic_damping": "damping",
    "critic_fraction": "fraction",
    "critic_preconditioner": "preconditioner",
}
# PPO's that mean nothing here, and values of them that ask for nothing.
UNUSED: dict[str, Any] = {"entropy_coef": 0.0, "schedule": "fixed", "use_mixed_precision": False}
REFUSED = {
    "multi_gpu_cfg": "None: updates do not share rows between processes",
    "symmetry_cfg": "None: updates do not augment rows",
}


@dataclass(frozen=True)
class Settings:
    """What was given, checked and sorted."""

    step: dict[str, Any]  # the keywords of trpo_update
    critic_method: str  # "adam" or "gauss_newton"
    fit: dict[str, Any]  # of gauss_newton
    ppo: dict[str, Any]


def sorted_settings(given: dict[str, Any]) -> Settings:
    """``given`` by whom it is for; a ``ValueError`` names one that cannot be."""
    rest = dict(given)
    for name, wanted in REFUSED.items():
        if rest.get(name) is not None:
            raise fail(name, wanted, rest[name])
    ignored = [name for name, none in UNUSED.items() if rest.pop(name, none) != none]
    if ignored:
        warnings.warn(f"TRPO does not use PPO's {', '.join(ignored)}", stacklevel=4)
    if rest.get("desired_kl") is not None:
        rest.setdefault("max_kl", rest["desired_kl"])
    step = {n: STEP[n].check(rest.pop(n, s.default)) for n, s in STEP.items()}
    method = rest.pop("critic_method", CRITIC["critic"].default)
    method = CRITIC["critic"].check(method, "critic_method")
    fit = {FIT[n]: CRITIC[n].check(rest.pop(n, CRITIC[n].default)) for n in FIT}
    return Settings(step, method, fit, rest)
