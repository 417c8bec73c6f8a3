"""Whether the host may read a number while work is under way: on a CPU it has been computed by
then; on a device the host would wait for it, and what is recorded to be replayed on other data
would keep what it read.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.distributions import Distribution

_thread = threading.local()


def may_read(device: torch.device) -> bool:
    """Whether numbers on this device may decide what the host does next."""
    return device.type == "cpu" and not getattr(_thread, "ahead", False)


@contextmanager
def ahead() -> Iterator[None]:
    """The host runs ahead of this thread's work on any device, as it does on a GPU's."""
    before = getattr(_thread, "ahead", False)
    _thread.ahead = True
    try:
        yield
    finally:
        _thread.ahead = before


class _Validation:
    """torch's switch of what new distributions look at, which belongs to the process: the first who
    turns it off keeps what it was, the last who is done puts it back.
    """

    def __init__(self) -> None:
        self._lock, self._users, self._before = threading.Lock(), 0, True

    def turn_off(self) -> None:
        with self._lock:
            if not self._users:
                self._before = Distribution._validate_args
                Distribution.set_default_validate_args(False)
            self._users += 1

    def put_back(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                Distribution.set_default_validate_args(self._before)


_validation = _Validation()


@contextmanager
def unvalidated(device: torch.device) -> Iterator[None]:
    """New distributions do not look at their parameters where the host may not read them, unless
    they were told to; parameters that are none then give NaN.
    """
    if may_read(device):
        yield
        return
    _validation.turn_off()
    try:
        yield
    finally:
        _validation.put_back()
