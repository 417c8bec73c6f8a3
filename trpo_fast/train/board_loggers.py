"""Loggers of programs that draw curves: TensorBoard, and Weights & Biases. Both have the numbers in
groups, "rollout/return" or "critic/loss", against environment steps.
"""

from __future__ import annotations

import math
import os
import secrets
from pathlib import Path
from typing import Any

from .._base import files
from .._base.arguments import fail
from .._base.extras import require
from .agent import Agent
from .loggers import Logger
from .record import Record

# Groups by the names in a record; what stands in none is of the policy's update, "train/...".
GROUPS = {
    "rollout": "return length episodes rows collected",
    "critic": "explained_variance critic_loss critic_learning_rate",
    "time": "update seconds steps_per_second env_seconds act_seconds update_seconds "
    "critic_seconds learner_share",
}
_GROUP = {name: group for group, names in GROUPS.items() for name in names.split()}
RUN_ID = "wandb-id"  # in the directory of a run


def grouped(record: Record) -> dict[str, float]:
    """The finite numbers of a record by "group/name"; "eval_..." and "critic_..." stand in the
    groups that they name. The steps are left out: they are what the others stand against.
    """
    found = {}
    for name, value in record.items():
        if isinstance(value, int | float) and math.isfinite(value) and name != "steps":
            group = "eval" if name.startswith("eval_") else _GROUP.get(name, "train")
            short = name.removeprefix(f"{group}_") if group in ("eval", "critic") else name
            found[f"{group}/{short}"] = value
    return found


class TensorBoardLogger(Logger):
    """Scalars for TensorBoard, against environment steps."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(directory))

    def __call__(self, agent: Agent, record: Record) -> None:
        for name, value in grouped(record).items():
            self.writer.add_scalar(name, value, agent.steps)
        self.writer.flush()  # a kill must not take the updates of the last two minutes

    def close(self) -> None:
        self.writer.close()


class WandbLogger(Logger):
    """A run of Weights & Biases, against environment steps, with the agent's settings.

    It starts with the first update. With a ``directory`` the run's id is kept there, in a file
    wandb-id, and a second logger of that directory goes on with the same run. ``options`` are
    further arguments of ``wandb.init``, such as ``mode="offline"``.
    """

    def __init__(
        self, project: str, directory: str | os.PathLike[str] | None = None, **options: Any
    ) -> None:
        if not isinstance(project, str) or not project:
            raise fail("project", "the name of a project of Weights & Biases", repr(project))
        self.wandb = require("wandb", "WandbLogger", "wandb")
        self.project, self.options = project, options
        self.directory = None if directory is None else Path(directory)
        self.run: Any = None

    def __call__(self, agent: Agent, record: Record) -> None:
        if self.run is None:
            self.run = self._start(agent)
        self.run.log({**grouped(record), "steps": agent.steps})

    def _start(self, agent: Agent) -> Any:
        options = {"config": agent.config.as_dict(), **self.options}
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
            known = self.directory / RUN_ID
            if not known.is_file():
                files.write(known, secrets.token_hex(4).encode())
            options = {"id": known.read_text(), "dir": str(self.directory), **options}
        run = self.wandb.init(project=self.project, resume="allow", **options)
        # Against the steps, not by wandb's own counter: a resumed run repeats some, and wandb
        # drops what comes at a count that it has seen.
        run.define_metric("steps")
        run.define_metric("*", step_metric="steps")
        return run

    def close(self) -> None:
        if self.run is not None:
            self.run.finish()
