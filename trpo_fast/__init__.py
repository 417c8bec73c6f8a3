"""trpo_fast: TRPO and natural-gradient updates with fused Fisher-vector products and conjugate
gradient.

>>> from trpo_fast import Batch, Gaussian, MLPPolicy, trpo_update
>>> policy = MLPPolicy(obs_dim=11, head=Gaussian(3))
>>> info = trpo_update(policy, Batch(obs, actions, advantages, log_probs), max_kl=0.01)
"""

from __future__ import annotations

from typing import Any

from . import ops as ops  # registers torch.ops.trpo_fast
from ._version import __version__
from .backend import BackendUnavailable, backends
from .fisher import FisherOperator, Solution
from .heads import Bernoulli, Categorical, Gaussian, MultiCategorical, SquashedGaussian
from .penalty import Penalty, kl_penalty_update, pg_update
from .policy import MLPPolicy, NetSpec, flat_params
from .surrogate import Batch
from .update import UpdateInfo, npg_update, trpo_update

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
        from .trainer import TRPO

        return TRPO
    if name == "evaluate":
        from .evaluation import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
