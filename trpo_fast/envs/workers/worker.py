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
    SILENT,
    SPOKE,
    STATUS,
    STEP,
    Board,
    Wire,
)

PATIENCE = 0.2  # seconds asleep between looks at whether a worker lives
CROWDED = 3  # misses in a row that make a worker look where it runs
WATCH = 0.5  # seconds between looks at whether the main process lives


class Worker:
    """A worker process as this one sees it."""

    def __init__(self, context: Any, copies: range, arguments: tuple[Any, ...]) -> None:
        self.copies, self.wire = copies, Wire(context)
        self.pipe, theirs = context.Pipe()
        self.wire.numbers[ASKED] = 1  # to make its copies
        self.heard = 0  # orders whose answers were read
        self.torn = False  # interrupted in the midst of a message
        self.process = context.Process(
            target=serve, args=(self.wire, theirs, *arguments, os.getpid()), daemon=True
        )
        with warnings.catch_warnings():  # of threads beside a fork; see start_method
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        theirs.close()  # or nobody would notice that the worker's end is closed

    def ask(self, command: int, message: Any = None) -> None:
        """Give an order. What is interrupted after any of these lines, ``settle`` sets right."""
        self.torn = message is not None
        numbers = self.wire.numbers
        numbers[COMMAND] = command
        numbers[ASKED] += 1
        self.wire.go.ring()
        if message is not None:
            try:
                self.pipe.send(message)
            except OSError:
                self._mourn()
            self.torn = False

    def answer(self) -> Any:
        """Wait for the answer to the last order."""
        self._take()
        return self._hear()

    def settle(self) -> None:
        """After an interruption: wait for an order's end, and forget what came of it."""
        if self.torn:
            raise WorkerError(
                "its workers were interrupted in the midst of a message; make it anew"
            )
        if self.heard != self.wire.numbers[ASKED]:
            self.wire.go.ring()  # once too often does no harm
            try:
                self._hear()
            except WorkerError:
                if self.process.exitcode is not None:
                    raise

    def _hear(self) -> Any:
        numbers = self.wire.numbers
        while numbers[ANSWERED] != numbers[ASKED]:
            self._take()
        status = numbers[STATUS]
        if status == SILENT:
            self.heard = numbers[ASKED]
            return None
        self.torn = True
        try:
            said = pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            self._mourn()
        self.heard, self.torn = numbers[ASKED], False
        if status == FAILED:
            text, trace = said
            raise WorkerError(text) from WorkerError(f"in a worker process:\n{trace}")
        return said

    def _take(self) -> None:
        while not self.wire.done.wait(PATIENCE):
            if not self.process.is_alive():
                self._mourn()

    def _mourn(self) -> NoReturn:
        self.torn = False
        self.process.join(PATIENCE)
        code = self.process.exitcode
        how = (
            f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
        )
        copies = f"copies {self.copies[0]} to {self.copies[-1]}"
        raise WorkerError(f"a worker process died ({how}), and with it {copies}")


def serve(
    wire: Wire,
    pipe: Any,
    board: Board,
    first: int,
    makers: Sequence[Callable[[], Any]],
    seed: int,
    parent: int,
) -> None:
    """The life of a worker with the copies from ``first`` on. Its first order is to make them."""
    gc.freeze()  # what a fork brought along is the main process's to end
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's as well
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)  # one core each, and OpenMP's threads do not survive a fork
    # For environments that draw from global generators: not the same numbers in every process.
    own = derive(seed, "worker", first)
    random.seed(own)
    np.random.seed(own)
    torch.manual_seed(own)
    chunks: list[Chunk] = []

    def make() -> Any:
        chunks.append(Chunk(makers))
        chunks[0].join(board, first)
        return chunks[0].spaces

    with contextlib.suppress(EOFError, OSError):  # the main process does not listen any more
        _answer(wire, pipe, make)
        if chunks:
            _work(wire, pipe, chunks[0], parent)
    for chunk in chunks:
        chunk.close()


def _work(wire: Wire, pipe: Any, chunk: Chunk, parent: int) -> None:
    """Follow orders to the last."""
    numbers, go = wire.numbers, wire.go
    cores = _usable()
    while True:
        misses = go.misses
        go.wait()
        if go.misses > max(misses, CROWDED):
            _step_aside(parent, cores)
        if numbers[ASKED] == numbers[ANSWERED]:
            continue  # told twice, because the main process was interrupted
        if numbers[COMMAND] == STEP:
            _answer(wire, pipe, chunk.step)
        elif numbers[COMMAND] == CLOSE:
            return
        else:
            name, arguments = pipe.recv()
            _answer(wire, pipe, functools.partial(getattr(chunk, name), *arguments))


def _answer(wire: Wire, pipe: Any, call: Callable[[], Any]) -> None:
    """Say that an order was followed, then what came of it: a pipe holds little until it is
    read.
    """
    numbers, status, said = wire.numbers, SILENT, b""
    asked = numbers[ASKED]
    try:
        result = call()
        if result is not None:
            status, said = SPOKE, pickle.dumps(result)
    except Exception as error:
        status, said = FAILED, pickle.dumps((describe(error), traceback.format_exc()))
    numbers[STATUS] = status
    numbers[ANSWERED] = asked
    wire.done.ring()
    if status != SILENT:
        pipe.send_bytes(said)


def _usable() -> set[int]:
    """The cores that this process may run on, where the system tells."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _step_aside(parent: int, cores: set[int]) -> None:
    """Keep off the main process's core. Where every core has something to do, however little, a
    process wakes on the core of the one that woke it: the two then step in turns, and spinning
    keeps the other from working.
    """

    def core(pid: int) -> int:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[36])

    with contextlib.suppress(OSError, ValueError, IndexError):  # no such files: not on Linux
        here = core(parent)
        if here == core(os.getpid()) and len(cores) > 1:
            os.sched_setaffinity(0, cores - {here})


def _watch(parent: int) -> None:
    """End the process, whatever it is doing, when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(WATCH)
    os.kill(os.getpid(), signal.SIGTERM)
