"""omnisafe's CPO as far as its products go, without the packages that omnisafe only imports."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium
import torch

UNUSED = ("safety_gymnasium", "gdown", "moviepy.video.io.ImageSequenceClip")
for name in UNUSED:
    parts = name.split(".")
    if importlib.util.find_spec(parts[0]) is None:
        for end in range(1, len(parts) + 1):
            sys.modules[".".join(parts[:end])] = ModuleType(parts[end - 1])
        vars(sys.modules[name]).setdefault(parts[-1], None)

from omnisafe.algorithms.on_policy import CPO  # noqa: E402
from omnisafe.algorithms.on_policy.base import natural_pg as natural_pg  # noqa: E402
from omnisafe.algorithms.on_policy.base import trpo as trpo  # noqa: E402
from omnisafe.algorithms.on_policy.second_order import cpo as cpo  # noqa: E402
from omnisafe.algorithms.on_policy.second_order import pcpo as pcpo  # noqa: E402
from omnisafe.models.actor.gaussian_learning_actor import GaussianLearningActor  # noqa: E402
from omnisafe.utils.math import conjugate_gradients as conjugate_gradients  # noqa: E402


def algorithm() -> Any:
    """What of CPO a product needs, in float64."""
    torch.manual_seed(0)
    spaces = gymnasium.spaces.Box(-1.0, 1.0, (5,)), gymnasium.spaces.Box(-1.0, 1.0, (2,))
    actor = GaussianLearningActor(*spaces, [8, 6], "tanh").double()
    made = object.__new__(CPO)
    made._actor_critic = SimpleNamespace(actor=actor)
    made._cfgs = SimpleNamespace(algo_cfgs=SimpleNamespace(cg_damping=0.1))
    made._logger = SimpleNamespace(store=lambda _: None)
    made._fvp_obs = torch.randn(96, 5, dtype=torch.float64)
    return made
