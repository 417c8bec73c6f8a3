"""Processes of one gloo group that run functions of the tests: started once, used by many tests."""

from __future__ import annotations

import multiprocessing
import queue
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.support.limits import HANGS

RANKS = 3


class Failed(Exception):
    """What a function raised in one of the processes."""

    def __init__(self, kind: str, words: str, where: str) -> None:
        super().__init__(f"{kind}: {words}\n{where}")
        self.kind, self.words = kind, words


def _serve(rank: int, store: str, jobs: Any, answers: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=HANGS / 2),
    )
    groups = {n: dist.new_group(list(range(n))) for n in range(1, RANKS + 1)}
    while (job := jobs.get()) is not None:
        function, ranks, arguments = job
        try:
            answers.put((rank, function(groups[ranks], *arguments), None))
        except Exception as error:
            words = (type(error).__name__, str(error), traceback.format_exc())
            answers.put((rank, None, words))
    dist.destroy_process_group()


class RankPool:
    """Runs ``function(group, *arguments)`` in the first so many of its processes."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("fork")  # which needs no imports anew
        self._stuck = False
        self._answers = context.Queue()
        self._jobs = [context.Queue() for _ in range(RANKS)]
        self._processes = [
            context.Process(
                target=_serve, args=(rank, str(folder / "store"), jobs, self._answers), daemon=True
            )
            for rank, jobs in enumerate(self._jobs)
        ]
        for process in self._processes:
            process.start()

    def everywhere(
        self, function: Callable[..., Any], *arguments: Any, ranks: int = 2
    ) -> list[Any]:
        """What the function returned on each rank, or the ``Failed`` that it raised there."""
        assert not self._stuck, "a rank did not answer an earlier test"
        for jobs in self._jobs[:ranks]:
            jobs.put((function, ranks, arguments))
        found: list[Any] = [None] * ranks
        for _ in range(ranks):
            try:
                rank, result, error = self._answers.get(timeout=HANGS)
            except queue.Empty:
                self._stuck = True
                raise AssertionError(f"{function.__name__}: a rank does not answer") from None
            found[rank] = result if error is None else Failed(*error)
        return found

    def run(self, function: Callable[..., Any], *arguments: Any, ranks: int = 2) -> list[Any]:
        """The same where no rank is to fail."""
        found = self.everywhere(function, *arguments, ranks=ranks)
        for result in found:
            if isinstance(result, Failed):
                raise result
        return found

    def close(self) -> None:
        for jobs in self._jobs:
            jobs.put(None)
        for process in self._processes:
            process.join(0.0 if self._stuck else HANGS)
