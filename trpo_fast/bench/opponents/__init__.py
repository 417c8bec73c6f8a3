"""The libraries and hand-written programs that trpo_fast is timed against.

Each module holds one ``Opponent`` (see base.py) and imports its library when it is made. None of
them imports the rest of trpo_fast: an opponent gets plain tensors and is free to be as fast as its
tools allow.
"""

from __future__ import annotations

from .base import Opponent, Setup
from .double_backward import DoubleBackward
from .func_compile import FuncCompile
from .gauss_newton import GaussNewton, GaussNewtonCompile, GaussNewtonGraph
from .jax_jit import JaxJit
from .sb3 import Sb3, Sb3Replica
from .sb3_learner import Sb3Act, Sb3Critic
from .sb3_update import Sb3Update, Sb3UpdateReplica, UpdateOpponent, UpdateSetup

OPPONENTS: dict[str, type[Opponent]] = {
    opponent.name: opponent
    for opponent in (
        Sb3,
        Sb3Replica,
        DoubleBackward,
        GaussNewton,
        GaussNewtonGraph,
        FuncCompile,
        GaussNewtonCompile,
        JaxJit,
    )
}

UPDATE_OPPONENTS: dict[str, type[UpdateOpponent]] = {
    opponent.name: opponent for opponent in (Sb3Update, Sb3UpdateReplica)
}

ACT_OPPONENTS: dict[str, type[Sb3Act]] = {Sb3Act.name: Sb3Act}
CRITIC_OPPONENTS: dict[str, type[Sb3Critic]] = {Sb3Critic.name: Sb3Critic}

__all__ = [
    "ACT_OPPONENTS",
    "CRITIC_OPPONENTS",
    "OPPONENTS",
    "UPDATE_OPPONENTS",
    "Opponent",
    "Setup",
    "UpdateOpponent",
    "UpdateSetup",
]
