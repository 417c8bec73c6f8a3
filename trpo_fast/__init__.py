"""trpo_fast: TRPO and natural-gradient updates with fused Fisher-vector products and conjugate
gradient.

>>> from trpo_fast import Batch, Gaussian, MLPPolicy, trpo_update
>>> policy = MLPPolicy(obs_dim=11, head=Gaussian(3))
>>> info = trpo_update(policy, Batch(obs, actions, advantages, log_probs), max_kl=0.01)
"""

from __future__ import annotations

from typing import Any

from ._version import __version__
from .core.problem import BackendUnavailable, backends
from .core.surrogate import Batch
from .policy.heads import Bernoulli, Categorical, Gaussian, MultiCategorical, SquashedGaussian
from .policy.net import MLPPolicy, NetSpec, flat_params
from .updates import compiled as ops  # registers torch.ops.trpo_fast
from .updates.natural import UpdateInfo, npg_update, trpo_update
from .updates.operator import FisherOperator, Solution
from .updates.penalty import Penalty, kl_penalty_update, pg_update

__all__ = [
    "TRPO",
    "BackendUnavailable",
    "Batch",
    "Bernoulli",
    "Categorical",
    "FisherOperator",
    "Gaussian",
    "MLPPolicy",
    "MultiCategorical",
    "NetSpec",
    "Penalty",
    "Solution",
    "SquashedGaussian",
    "UpdateInfo",
    "__version__",
    "backends",
    "evaluate",
    "flat_params",
    "kl_penalty_update",
    "npg_update",
    "pg_update",
    "trpo_update",
]


def __getattr__(name: str) -> Any:
    """The trainer loads when it is first asked for: importing the package needs torch only."""
    if name == "TRPO":
        from .train.trainer import TRPO

        return TRPO
    if name == "evaluate":
        from .train.evaluate import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
