"""``EnvError``: what goes wrong with environments, in words."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import numpy as np

INTERFACE = (
    "; gymnasium expects (obs, info) of reset and (obs, reward, terminated, truncated, info) of "
    "step"
)


class EnvError(RuntimeError):
    """An environment failed; the sentence says how. Nothing of the rollout in progress was used."""


class WorkerError(RuntimeError):
    """What went wrong in a worker process, or with it, as part of a sentence."""


def shape_error(obs: Any, wanted: tuple[int, ...] | None, where: str = "") -> str | None:
    """What is wrong with the shape of an observation, as part of a sentence."""
    got = np.shape(obs)
    if got == (wanted or ()):
        return None
    return f"expected observations of shape {list(wanted or ())}, got {list(got)}{where}"


def describe_step(error: BaseException, venv: Any, first: int = 0) -> str:
    """What went wrong in a call of a vector environment, as part of a sentence. gymnasium's
    ``SyncVectorEnv`` leaves observations of a wrong shape to numpy's words; ``first`` is the
    number of its first copy.
    """
    if isinstance(error, ValueError):
        for copy, obs in enumerate(getattr(venv, "_env_obs", ())):
            wanted, where = venv.single_observation_space.shape, f" from copy {first + copy}"
            if obs is not None and (why := shape_error(obs, wanted, where)):
                return why
    hint = INTERFACE if _cannot_unpack(error) else ""
    return describe(error) + hint


def _cannot_unpack(error: BaseException) -> bool:
    """Whether gymnasium itself failed on what ``reset`` or ``step`` returned."""
    found = traceback.extract_tb(error.__traceback__)
    words = str(error)
    return (
        bool(found)
        and "gymnasium" in Path(found[-1].filename).parts
        and ("values to unpack" in words or "no attribute 'items'" in words)
    )


def describe(error: BaseException) -> str:
    """An exception as part of a sentence; dead worker processes in words."""
    if isinstance(error, WorkerError):
        return str(error)
    if isinstance(error, EOFError | BrokenPipeError | ConnectionResetError):
        return "a worker process died (killed, or out of memory)"
    return f"{type(error).__name__}: {error}"
