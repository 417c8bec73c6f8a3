"""Copies of an environment on several cores: this process steps some, workers step the others.

    copies    0 1 2 | 3 4 5 | 6 7        cut into neighbours, a ``SyncVectorEnv`` each
    stepped   here    worker  worker     at once

Actions, observations, rewards and endings lie in shared memory, so a step sends no message; only
action masks and errors go through pipes. Every copy sees the calls that it would see in one
``SyncVectorEnv``: the numbers are the same for any number of workers.

A worker ends with ``close``, when the environments are collected as garbage, when this process
ends, and half a second after it was killed. Ctrl-C leaves orders and answers matched; in the middle
of a message (states, masks) it cannot, and the next call says so.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..._base.rows import map_rows
from ..errors import WorkerError
from ..flat import keeps_structure
from ..observations import Part, parts_of_space
from .chunk import Chunk
from .shared import CALL, CLOSE, STEP, SharedArrays
from .worker import Worker

CLOSE_SECONDS = 2.0  # that workers have to close their environments


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start_method() -> str:
    """How workers are started: by a fork where that is safe, as it is quick, takes any function for
    a maker and needs no ``if __name__ == "__main__"`` in the user's script. Not after CUDA was
    used, which fails in a child, nor beside JAX, whose threads may hold locks, nor elsewhere than
    on Linux, where system libraries do not survive it. torch's threads are no obstacle: workers use
    one each, and the native half makes its pool anew in a child.
    """
    if sys.platform != "linux" or torch.cuda.is_initialized() or "jax" in sys.modules:
        return "spawn"
    return "fork"


class WorkerEnvs:
    """A vector environment over this process and ``workers`` more (by default one for each further
    core). Observations come flat, or with their structure; arrays are written anew by every call.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], Any]],
        workers: int | None = None,
        *,
        seed: int = 0,
        method: str | None = None,
        structured: bool | None = False,
    ) -> None:
        self.num_envs = len(makers)
        wanted = usable_cores() - 1 if workers is None else workers
        self._chunks = _split_copies(self.num_envs, 1 + min(wanted, self.num_envs - 1))
        # Ours are made first: an error in every copy then reads as it does without workers.
        self._here = Chunk([makers[i] for i in self._chunks[0]])
        self.single_observation_space, self.single_action_space = self._here.spaces
        method = method or start_method()
        context: Any = multiprocessing.get_context(method)
        space = self.single_observation_space
        flat = Part((int(np.prod(space.shape or ())),), np.dtype(np.float32))
        parts = parts_of_space(space) if keeps_structure(space, structured) else flat
        self._arrays = SharedArrays(context, self.num_envs, parts, self.single_action_space)
        self._here.attach(self._arrays, 0)
        self._workers: list[Worker] = []
        self._finalizer = weakref.finalize(self, _end_workers, os.getpid(), self._workers)
        try:
            for copies in self._chunks[1:]:
                chosen = [_sendable(makers[i], method) for i in copies]
                arguments = (self._arrays, copies[0], chosen, seed)
                self._workers.append(Worker(context, copies, arguments))
            for worker in self._workers:
                self._wait_until_made(worker, method)
        except BaseException:
            self.close()
            raise

    def _wait_until_made(self, worker: Worker, method: str) -> None:
        """Wait until a worker has made its copies, and compare them with ours."""
        try:
            spaces = worker.answer()
        except WorkerError as error:
            if method == "fork" or worker.process.exitcode != 1:
                raise
            raise WorkerError(
                f'{error}; a script needs `if __name__ == "__main__":` around what it does, '
                "because workers that are spawned import it"
            ) from error
        if spaces != self._here.spaces:
            raise ValueError(
                f"env: expected the same spaces of every copy, got others from copies "
                f"{worker.copies[0]} to {worker.copies[-1]}"
            )

    @property
    def processes(self) -> list[Any]:
        return [worker.process for worker in self._workers]

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        """Observations [E, O], rewards, terminated, truncated [E], infos (``final_obs`` of what
        ended, ``action_mask`` where there is one).
        """
        workers, arrays = self._workers, self._arrays
        for worker in workers:
            worker.finish_interrupted()
        arrays.actions[...] = actions
        for worker in workers:
            worker.ask(STEP)
        masks = self._gather(self._here.step)
        infos: dict[str, Any] = {"final_obs": _ByCopy(arrays.final_obs)}
        if masks[0] is not None:
            infos["action_mask"] = _merge_masks(masks)
        return arrays.obs, arrays.rewards, arrays.terminated, arrays.truncated, infos

    def reset(self, *, seed: int | list[int] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """First observations [E, O], and infos with ``action_mask`` where there is one."""
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        parts = [None if seeds is None else seeds[c.start : c.stop] for c in self._chunks]
        masks = self._call("reset", [(part,) for part in parts])
        return self._arrays.obs, {} if masks[0] is None else {"action_mask": _merge_masks(masks)}

    def unsupported(self) -> str | None:
        """Why exact states cannot be saved, or None where they can."""
        found = self._call("unsupported", [() for _ in self._chunks])
        return next((why for why in found if why), None)

    def snapshot(self, copies: Sequence[int]) -> list[dict[str, Any]]:
        """The exact states of these copies."""
        local = [[i - c.start for i in copies if i in c] for c in self._chunks]
        parts = [iter(part) for part in self._call("snapshot", [(part,) for part in local])]
        owners = [next(k for k, c in enumerate(self._chunks) if i in c) for i in copies]
        return [next(parts[owner]) for owner in owners]

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        """Bring every copy to its saved state."""
        self._call("restore", [(states[c.start : c.stop],) for c in self._chunks])

    def close(self) -> None:
        """Close every environment and end the workers."""
        if self._finalizer() is not None:
            self._here.close()

    def _call(self, name: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
        """A method of every chunk, each with arguments of its own, at once."""
        for worker in self._workers:
            worker.finish_interrupted()
        for worker, given in zip(self._workers, arguments[1:], strict=True):
            worker.ask(CALL, (name, given))
        return self._gather(lambda: getattr(self._here, name)(*arguments[0]))

    def _gather(self, here: Callable[[], Any]) -> list[Any]:
        """This process's result, then the workers' answers; the first error once all are in."""
        results: list[Any] = []
        failure: Exception | None = None
        try:
            results.append(here())
        except Exception as error:
            failure = error
        for worker in self._workers:
            try:
                results.append(worker.answer())
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return results


class _ByCopy:
    """Observations [E, ...] by the number of a copy."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __getitem__(self, copy: int) -> Any:
        return map_rows(lambda part: part[copy], self._rows)


def _split_copies(copies: int, parts: int) -> list[range]:
    """Neighbouring copies for each process; the first, which has more to do, never gets more."""
    least, more = divmod(copies, parts)
    ends = [0]
    for k in range(parts):
        ends.append(ends[-1] + least + (k >= parts - more))
    return [range(a, b) for a, b in itertools.pairwise(ends)]


def _sendable(maker: Callable[[], Any], method: str) -> Callable[[], Any]:
    """A maker that a spawned process can be sent, closures included; a fork sends nothing."""
    if method == "fork":
        return maker
    from gymnasium.vector.utils import CloudpickleWrapper

    return CloudpickleWrapper(maker)


def _merge_masks(masks: list[Any]) -> list[Any]:
    """The masks of all copies from those of the chunks."""
    return [mask for part in masks if part is not None for mask in part]


def _end_workers(owner: int, workers: list[Worker]) -> bool:
    """End the workers: by asking, then by signals. Only in the process that started them: a fork
    has the same objects.
    """
    if os.getpid() != owner:
        return False
    for worker in workers:
        worker.ask(CLOSE)
        worker.pipe.close()
    deadline = time.monotonic() + CLOSE_SECONDS
    for worker in workers:
        for end in (None, worker.process.terminate, worker.process.kill):
            if end is not None:
                end()
            worker.process.join(max(0.0, deadline - time.monotonic()) if end is None else 1.0)
            if worker.process.exitcode is not None:
                break
    return True
