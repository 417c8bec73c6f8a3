"""What must not reach into a computation from outside: a surrounding autocast, and Ctrl-C inside
torch's own bookkeeping.
"""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def outside_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """The function in the dtype of its tensors, whatever ``torch.autocast`` surrounds the call."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        active = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
        if not active:
            return function(*args, **kwargs)
        with ExitStack() as stack:
            for kind in active:
                stack.enter_context(torch.autocast(kind, enabled=False))
            return function(*args, **kwargs)

    return guarded


def uninterrupted(function: Callable[P, R]) -> Callable[P, R]:
    """The function with SIGINT held back until it returns: KeyboardInterrupt then comes from here.

    torch.func enters and leaves its transforms in Python; an exception between two of those lines
    would leave the process inside one for good.
    """

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(handler):
            return function(*args, **kwargs)
        held: list[tuple[Any, ...]] = []
        signal.signal(signal.SIGINT, lambda *signalled: held.append(signalled))
        try:
            return function(*args, **kwargs)
        finally:
            signal.signal(signal.SIGINT, handler)
            if held:
                handler(*held[0])

    return guarded
