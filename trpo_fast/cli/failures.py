"""How a command of the command line ends when something goes wrong.

A mistake of the user, and what the machine refuses, is one line on standard error: exit status 2
if the command line itself is incomplete, else 1. Anything else is a mistake of this package: it
keeps its traceback and asks for a report. With TRPO_FAST_DEBUG=1 every failure has a traceback.
"""

from __future__ import annotations

import os
import select
import sys
import traceback
from collections.abc import Callable

from ..core.problem import BackendUnavailable
from ..envs.errors import EnvError

# A reader that ends early, as in `trpo-fast doctor | head -1`: what a shell reports for SIGPIPE.
READER_GONE = 141
INTERRUPTED = 130

_KNOWN = (ValueError, EnvError, BackendUnavailable, OSError, ImportError)
# How torch's allocators say, in a RuntimeError, that there is no more memory.
_NO_MEMORY = ("can't allocate memory", "out of memory")


class UsageError(ValueError):
    """The command line lacks what the command cannot do without; the sentence has an example."""


def guarded(command: Callable[[], int]) -> int:
    """The exit status of a command, which raises nothing; what it printed is out by then."""
    try:
        open_streams()
        try:
            return command()
        finally:  # what fails here must not fail when the interpreter ends
            sys.stdout.flush()
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except Exception as error:
        broken = isinstance(error, OSError) and _silence_broken_streams()
        if broken and isinstance(error, BrokenPipeError):
            return READER_GONE
        return report(error)


def report(error: Exception) -> int:
    """Say what went wrong; the exit status for it."""
    words = sentence(error)
    if words is None or os.environ.get("TRPO_FAST_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)
    if words is None:
        words = (
            f"unexpected {type(error).__name__}: unless your environment raised it, this is a "
            "mistake of trpo_fast; please report it with the lines above and your command"
        )
    say(words)
    return 2 if isinstance(error, UsageError) else 1


def say(words: str) -> None:
    """One line on standard error, if that is still open."""
    try:
        print(f"trpo-fast: {words}", file=sys.stderr, flush=True)
    except OSError:
        _silence_broken_streams()


def sentence(error: Exception) -> str | None:
    """What to print about an error; None where it is a mistake of this package."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, _KNOWN):
        return str(error)
    if isinstance(error, MemoryError):
        return f"out of memory: {error}".rstrip(": ")
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY):
        return f"out of memory: {str(error).splitlines()[0]}"
    return f"gymnasium: {error}" if type(error).__module__.startswith("gymnasium") else None


def open_streams() -> None:
    """Standard streams that were closed before the start (``2>&-``) lead to /dev/null: a file
    opened later would have their number, and get what was meant for them.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gives the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (open to the end)


def _silence_broken_streams() -> bool:
    """Lead a standard stream that cannot be written to /dev/null, with what is left in its buffer:
    the interpreter flushes it at its end. Whether there was one; a worker's pipe is none.
    """
    broken = [number for number in (1, 2) if _is_broken(number)]
    for number in broken:
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return bool(broken)


def _is_broken(number: int) -> bool:
    """Whether what is in the buffer of standard stream 1 or 2 cannot be written, or nobody is left
    who reads it.
    """
    try:
        (sys.stdout if number == 1 else sys.stderr).flush()
    except OSError:
        return True
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))
