"""trpo_fast: TRPO and natural-gradient updates with fused Fisher-vector products and conjugate
gradient.

>>> from trpo_fast import Batch, Gaussian, MLPPolicy, trpo_update
>>> policy = MLPPolicy(obs_dim=11, head=Gaussian(3))
>>> info = trpo_update(policy, Batch(obs, actions, advantages, log_probs), max_kl=0.01)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._base.options import UpdateOptions
from ._version import __version__
from .backends.captured import GraphStatistics, captured_graphs
from .backends.registry import backends
from .core.batch import Batch
from .core.problem import BackendUnavailable
from .policy.cnn import CNNPolicy, CNNValues
from .policy.flat import flat_params
from .policy.heads import (
    Bernoulli,
    Beta,
    Categorical,
    Gaussian,
    Head,
    MultiCategorical,
    SquashedGaussian,
    register_head,
    unregister_head,
)
from .policy.net import MLPPolicy
from .policy.recurrent import RecurrentPolicy
from .policy.spec import NetSpec
from .updates import compiled as compiled  # registers torch.ops.trpo_fast
from .updates.first_order import pg_update
from .updates.info import UpdateInfo
from .updates.multiplier import Penalty
from .updates.natural import npg_update, trpo_update
from .updates.operator import FisherOperator
from .updates.optimizer import NaturalGradient
from .updates.penalty import kl_penalty_update
from .updates.rat import rat_update
from .updates.sampler import distribution_params
from .updates.solution import Solution
from .updates.step_info import Directions, StepInfo

if TYPE_CHECKING:
    from .envs.errors import EnvError
    from .envs.tensor.base import TensorEnvironment
    from .learner.critic import Critic
    from .train.board_loggers import TensorBoardLogger, WandbLogger
    from .train.checkpoint import CheckpointError
    from .train.config import Config
    from .train.episodes import Evaluation
    from .train.eval_callback import EvalCallback
    from .train.evaluate import evaluate
    from .train.loggers import ConsoleLogger, CsvLogger, JsonLogger
    from .train.trainer import TRPO

__all__ = [
    "TRPO",
    "BackendUnavailable",
    "Batch",
    "Bernoulli",
    "Beta",
    "CNNPolicy",
    "CNNValues",
    "Categorical",
    "CheckpointError",
    "Config",
    "ConsoleLogger",
    "Critic",
    "CsvLogger",
    "Directions",
    "EnvError",
    "EvalCallback",
    "Evaluation",
    "FisherOperator",
    "Gaussian",
    "GraphStatistics",
    "Head",
    "JsonLogger",
    "MLPPolicy",
    "MultiCategorical",
    "NaturalGradient",
    "NetSpec",
    "Penalty",
    "RecurrentPolicy",
    "Solution",
    "SquashedGaussian",
    "StepInfo",
    "TensorBoardLogger",
    "TensorEnvironment",
    "UpdateInfo",
    "UpdateOptions",
    "WandbLogger",
    "__version__",
    "backends",
    "captured_graphs",
    "distribution_params",
    "evaluate",
    "flat_params",
    "kl_penalty_update",
    "npg_update",
    "pg_update",
    "rat_update",
    "register_head",
    "trpo_update",
    "unregister_head",
]

# What loads when it is first asked for, and from where: importing the package needs torch only.
_LATER = {
    "TRPO": "train.trainer",
    "CheckpointError": "train.checkpoint",
    "Config": "train.config",
    "ConsoleLogger": "train.loggers",
    "Critic": "learner.critic",
    "CsvLogger": "train.loggers",
    "EnvError": "envs.errors",
    "EvalCallback": "train.eval_callback",
    "Evaluation": "train.episodes",
    "JsonLogger": "train.loggers",
    "TensorBoardLogger": "train.board_loggers",
    "TensorEnvironment": "envs.tensor.base",
    "WandbLogger": "train.board_loggers",
    "evaluate": "train.evaluate",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
