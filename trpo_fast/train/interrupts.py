"""Ctrl-C that waits for the end of an update, so that what is saved is whole."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType

NOTICE = b"\ninterrupted: the update under way is finished and saved; Ctrl-C again ends at once\n"


class Postponed:
    """``with Postponed(active) as ctrl_c``: a first Ctrl-C inside sets ``ctrl_c.pressed`` and
    raises KeyboardInterrupt when the block ends; a second raises it at once.

    Python's own handler is replaced and comes back; another program's is left alone, as are threads
    other than the main one, which no signal reaches.
    """

    def __init__(self, active: bool = True) -> None:
        main = threading.current_thread() is threading.main_thread()
        self.active = active and main
        self.pressed = False

    def __enter__(self) -> Postponed:
        self.active &= signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self.active:
            signal.signal(signal.SIGINT, self._on_signal)
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        with contextlib.suppress(OSError):  # not print: the handler may have interrupted one
            os.write(2, NOTICE)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.active:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.pressed and kind is None:
            raise KeyboardInterrupt
