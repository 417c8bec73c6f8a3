"""Evaluating while training: whole episodes every so many steps, and the best agent kept."""

from __future__ import annotations

import csv
import io
import math
import os
from pathlib import Path

import numpy as np

from .._base.arguments import check_bool, check_count
from .agent import Agent, EnvSource
from .episodes import Evaluation
from .evaluate import evaluate
from .loggers import LogFile
from .record import Record

BEST, EVALUATIONS = "best.safetensors", "evaluations.csv"
COLUMNS = ("steps", "return", "std", "length", "returns")


class EvalCallback:
    """A callback that plays ``episodes`` after every update in which the environment steps pass a
    multiple of ``every``.

    It adds ``eval_return``, ``eval_std``, ``eval_length`` and ``eval_best`` (the highest mean
    return so far) to the record, NaN where nothing was played; loggers have them if they come
    after it. Into a ``directory`` it writes a row of ``evaluations.csv`` each time, and
    ``best.safetensors``, the agent of the highest mean return. A second callback of that directory
    goes on from what is there. ``env`` is played in place of copies of the agent's.

    Training is the same with it as without, but where ``evaluate`` has to borrow a tensor
    environment that cannot be saved.
    """

    def __init__(
        self,
        every: int,
        *,
        episodes: int = 10,
        directory: str | os.PathLike[str] | None = None,
        deterministic: bool = True,
        seed: int = 10_000,
        env: EnvSource | None = None,
    ) -> None:
        self.every = check_count("every", every, most=2**63 - 1)
        self.episodes = check_count("episodes", episodes)
        self.deterministic = check_bool("deterministic", deterministic)
        self.seed, self.env = check_count("seed", seed, least=0), env
        self.directory = None if directory is None else Path(directory)
        self.best = -math.inf if self.directory is None else _best_of(self.directory / EVALUATIONS)

    def __call__(self, agent: Agent, record: Record) -> None:
        """Evaluate, if the update of the record passed a multiple of ``every``."""
        found = None
        if agent.steps // self.every > (agent.steps - record["collected"]) // self.every:
            found = evaluate(
                agent,
                self.episodes,
                deterministic=self.deterministic,
                seed=self.seed,
                env=self.env,
            )
            self._keep(agent, found)
        record["eval_return"] = math.nan if found is None else found.mean
        record["eval_std"] = math.nan if found is None else found.std
        record["eval_length"] = math.nan if found is None else float(np.mean(found.lengths))
        record["eval_best"] = math.nan if found is None else self.best

    def _keep(self, agent: Agent, found: Evaluation) -> None:
        """First the agent, then its row: after a kill in between it is evaluated and kept again."""
        better, self.best = found.mean > self.best, max(self.best, found.mean)
        if self.directory is None:
            return
        if better:
            agent.save(self.directory / BEST)
        path = self.directory / EVALUATIONS
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        if not path.is_file():
            rows.writerow(COLUMNS)
        returns = " ".join(map(repr, found.returns))
        rows.writerow([agent.steps, found.mean, found.std, np.mean(found.lengths), returns])
        file = LogFile(path)
        try:
            file.write(text.getvalue())
        finally:
            file.close()


def read_evaluations(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Rows of ``evaluations.csv``: steps, return, std and length; of those that a resumed run
    repeated, the later one.
    """
    with open(path, newline="") as file:
        rows = {row["steps"]: row for row in csv.DictReader(file) if row.get("returns")}
    return [{name: float(row[name]) for name in COLUMNS[:-1]} for row in rows.values()]


def _best_of(path: Path) -> float:
    """The highest mean return of a file of evaluations, if there is one."""
    found = read_evaluations(path) if path.is_file() else []
    return max((row["return"] for row in found), default=-math.inf)
