"""A worker process and how it is talked to, from both ends.

``Worker`` is the main process's: it gives an order and waits for the answer. ``serve`` is the
worker's: it makes a chunk of copies and follows orders until it is told to stop, or until the
process that it works for is gone.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import pickle
import random
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from ..._base.seeds import derive
from ..errors import WorkerError, describe
from .chunk import Chunk
from .shared import (
    ANSWERED,
    ASKED,
    CLOSE,
    COMMAND,
    FAILED,
    NOTHING,
    RESULT,
    STATUS,
    STEP,
    Channel,
    SharedArrays,
)

LIVENESS_SECONDS = 0.2  # asleep between checks whether a worker lives
MISSES_TO_MOVE = 3  # in a row; after more a worker checks which core it runs on
PARENT_SECONDS = 0.5  # between checks whether the main process lives


class Worker:
    """A worker process as this one sees it."""

    def __init__(self, context: Any, copies: range, arguments: tuple[Any, ...]) -> None:
        self.copies, self.channel = copies, Channel(context)
        self.pipe, theirs = context.Pipe()
        self.channel.numbers[ASKED] = 1  # to make its copies
        self.answers_read = 0  # orders whose answers were read
        self.message_cut = False  # interrupted in the middle of a message
        self.process = context.Process(
            target=serve, args=(self.channel, theirs, *arguments, os.getpid()), daemon=True
        )
        with warnings.catch_warnings():  # of threads beside a fork; see start_method
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        theirs.close()  # otherwise a worker that closes its end would go unnoticed

    def ask(self, command: int, message: Any = None) -> None:
        """Give an order. An interruption after any of these lines is for ``finish_interrupted``."""
        self.message_cut = message is not None
        numbers = self.channel.numbers
        numbers[COMMAND] = command
        numbers[ASKED] += 1
        self.channel.ordered.release()
        if message is not None:
            try:
                self.pipe.send(message)
            except OSError:
                self._raise_dead()
            self.message_cut = False

    def answer(self) -> Any:
        """Wait for the answer to the last order."""
        self._wait_for_answer()
        return self._read_answer()

    def finish_interrupted(self) -> None:
        """After an interruption: wait for the end of the order, and drop its answer."""
        if self.message_cut:
            raise WorkerError(
                "its workers were interrupted in the middle of a message; make it anew"
            )
        if self.answers_read != self.channel.numbers[ASKED]:
            self.channel.ordered.release()  # once too often does no harm
            try:
                self._read_answer()
            except WorkerError:
                if self.process.exitcode is not None:
                    raise

    def _read_answer(self) -> Any:
        numbers = self.channel.numbers
        while numbers[ANSWERED] != numbers[ASKED]:
            self._wait_for_answer()
        status = numbers[STATUS]
        if status == NOTHING:
            self.answers_read = numbers[ASKED]
            return None
        self.message_cut = True
        try:
            said = pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            self._raise_dead()
        self.answers_read, self.message_cut = numbers[ASKED], False
        if status == FAILED:
            text, trace = said
            raise WorkerError(text) from WorkerError(f"in a worker process:\n{trace}")
        return said

    def _wait_for_answer(self) -> None:
        while not self.channel.answered.acquire(LIVENESS_SECONDS):
            if not self.process.is_alive():
                self._raise_dead()

    def _raise_dead(self) -> NoReturn:
        self.message_cut = False
        self.process.join(LIVENESS_SECONDS)
        code = self.process.exitcode
        how = (
            f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
        )
        copies = f"copies {self.copies[0]} to {self.copies[-1]}"
        raise WorkerError(f"a worker process died ({how}), and with it {copies}")


def serve(
    channel: Channel,
    pipe: Any,
    arrays: SharedArrays,
    first: int,
    makers: Sequence[Callable[[], Any]],
    seed: int,
    parent: int,
) -> None:
    """What a worker does, with the copies from ``first`` on. Its first order is to make them."""
    gc.freeze()  # objects that a fork copied are left to the main process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's as well
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)  # one core each, and OpenMP's threads do not survive a fork
    # For environments that draw from global generators: not the same numbers in every process.
    own = derive(seed, "worker", first)
    random.seed(own)
    np.random.seed(own)
    torch.manual_seed(own)
    chunks: list[Chunk] = []

    def make() -> Any:
        chunks.append(Chunk(makers))
        chunks[0].attach(arrays, first)
        return chunks[0].spaces

    with contextlib.suppress(EOFError, OSError):  # the main process has closed its end
        _answer(channel, pipe, make)
        if chunks:
            _follow_orders(channel, pipe, chunks[0], parent)
    for chunk in chunks:
        chunk.close()


def _follow_orders(channel: Channel, pipe: Any, chunk: Chunk, parent: int) -> None:
    """Follow orders until the last, which is to end."""
    numbers, ordered = channel.numbers, channel.ordered
    cores = _usable()
    while True:
        misses = ordered.misses
        ordered.acquire()
        if ordered.misses > max(misses, MISSES_TO_MOVE):
            _leave_core_of(parent, cores)
        if numbers[ASKED] == numbers[ANSWERED]:
            continue  # released twice, because the main process was interrupted
        if numbers[COMMAND] == STEP:
            _answer(channel, pipe, chunk.step)
        elif numbers[COMMAND] == CLOSE:
            return
        else:
            name, arguments = pipe.recv()
            _answer(channel, pipe, functools.partial(getattr(chunk, name), *arguments))


def _answer(channel: Channel, pipe: Any, call: Callable[[], Any]) -> None:
    """Say that an order was followed, then what came of it: a pipe holds little until it is
    read.
    """
    numbers, status, said = channel.numbers, NOTHING, b""
    asked = numbers[ASKED]
    try:
        result = call()
        if result is not None:
            status, said = RESULT, pickle.dumps(result)
    except Exception as error:
        status, said = FAILED, pickle.dumps((describe(error), traceback.format_exc()))
    numbers[STATUS] = status
    numbers[ANSWERED] = asked
    channel.answered.release()
    if status != NOTHING:
        pipe.send_bytes(said)


def _usable() -> set[int]:
    """The cores that this process may run on, where the system tells."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _leave_core_of(parent: int, cores: set[int]) -> None:
    """Run on other cores than the main process does. Where every core has something to do, however
    little, a process wakes on the core of the one that woke it: the two then step in turns, and
    spinning keeps the other from working.
    """

    def core(pid: int) -> int:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[36])

    with contextlib.suppress(OSError, ValueError, IndexError):  # no such files: not on Linux
        here = core(parent)
        if here == core(os.getpid()) and len(cores) > 1:
            os.sched_setaffinity(0, cores - {here})


def _end_with_parent(parent: int) -> None:
    """End the process, whatever it is doing, when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
