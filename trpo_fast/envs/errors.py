"""What goes wrong with environments, in words."""

from __future__ import annotations


class EnvError(RuntimeError):
    """An environment failed; the sentence says how. Nothing of the rollout in progress was used."""


class WorkerError(RuntimeError):
    """What went wrong in a worker process, or with it, as part of a sentence."""


def describe(error: BaseException) -> str:
    """An exception as part of a sentence; dead worker processes in words."""
    if isinstance(error, WorkerError):
        return str(error)
    if isinstance(error, EOFError | BrokenPipeError | ConnectionResetError):
        return "a worker process died (killed, or out of memory)"
    return f"{type(error).__name__}: {error}"
