"""A run of the command line as a directory, and training in it.

config.toml             what it trains
run.toml                how long it goes on, and how it reports
checkpoint.safetensors  where it is, from before its first update on
best.safetensors        the agent that an evaluation found best, where there were any
.lock                   held by the process that trains in it
progress.csv, progress.jsonl, evaluations.csv, TensorBoard events, wandb-id
"""

from __future__ import annotations

import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typing_extensions import Doc

from .._base import files, toml
from .._base.arguments import check_count
from .._base.extras import require
from .._base.options import COUNT, LONG
from .._base.settings import AtLeast, check_all
from ..train.board_loggers import TensorBoardLogger, WandbLogger
from ..train.checkpoint import NAME as CHECKPOINT
from ..train.checkpoint import CheckpointError
from ..train.config import write_toml
from ..train.eval_callback import BEST, EvalCallback
from ..train.loggers import (
    ConsoleLogger,
    CsvLogger,
    JsonLogger,
    Logger,
    Loggers,
)
from ..train.nets import example_rows
from ..train.presets import describe
from ..train.rules import check_serves
from ..train.trainer import TRPO, Callback
from . import flags
from .failures import UsageError

OPTIONS, PROGRESS = "run.toml", "progress.csv"
STEPS = 1_000_000


@dataclass
class RunOptions:
    """What a run keeps beside its config, for those who resume it."""

    target_return: Annotated[
        float | None, Doc("stop when the mean return of the last episodes reaches this")
    ] = None
    checkpoint_every: Annotated[
        int, AtLeast(1), LONG, Doc("updates from one checkpoint to the next")
    ] = 10
    print_every: Annotated[int, AtLeast(1), LONG, Doc("updates from one line to the next")] = 1
    tensorboard: Annotated[bool, Doc("write TensorBoard events as well")] = False
    wandb: Annotated[
        str | None, Doc("log to Weights & Biases as well, in the project of this name")
    ] = None
    eval_every: Annotated[
        int | None,
        AtLeast(1),
        LONG,
        Doc(f"environment steps between evaluations; the best agent so far is kept as {BEST}"),
    ] = None
    eval_episodes: Annotated[
        int, AtLeast(1), COUNT, Doc("episodes of an evaluation, with the most likely actions")
    ] = 10
    env_options: Annotated[
        tuple[str, ...],
        Doc("options of the environment, as in --env-options gravity=5.0 render_mode=none"),
    ] = ()

    def __post_init__(self) -> None:
        check_all(self)


def refuse_used(out: Path) -> None:
    """Refuse a directory that holds a run: its logs and the new one's would mix."""
    for name in (CHECKPOINT, PROGRESS):
        if (out / name).exists():
            raise ValueError(
                f"out: expected a directory without a run, got {out} with its {name}; "
                f"trpo-fast resume {out} continues it"
            )


def check_boards(options: RunOptions) -> None:
    """Refuse logs for programs that are not here, before there is anything to clean up."""
    if options.tensorboard:
        require("tensorboard", "--tensorboard", "train")
    if options.wandb is not None:
        WandbLogger(options.wandb)


def start_run(agent: TRPO, options: RunOptions, steps: int, out: Path) -> int:
    """Make the directory of a new run, and train in it."""
    obs, _ = example_rows(agent)
    # Before there is anything to clean up.
    check_serves(agent.policy, agent.head, agent.config, obs)
    check_boards(options)
    out.mkdir(parents=True, exist_ok=True)
    with files.only_writer(out, "out"):
        refuse_used(out)  # again: another process may have been faster
        write_toml(agent.config, out / "config.toml")
        print(describe(agent.config.as_dict()), file=sys.stderr)
        write_options(out, steps, options)
        return continue_run(agent, options, steps, out)


def continue_run(agent: TRPO, options: RunOptions, until: int, out: Path) -> int:
    """Train until the run has so many steps in all, and keep everything in its directory."""
    left = until - agent.steps
    loggers: list[Logger] = [ConsoleLogger(left, every=options.print_every)]
    loggers += [CsvLogger(out), JsonLogger(out)]
    if options.tensorboard:
        loggers.append(TensorBoardLogger(out))
    if options.wandb is not None:
        loggers.append(WandbLogger(options.wandb, out))
    callbacks: list[Callback] = []
    if options.eval_every is not None:
        episodes = options.eval_episodes
        callbacks = [EvalCallback(options.eval_every, episodes=episodes, directory=out)]
    begun = time.perf_counter()
    with Loggers(*loggers) as log:
        try:
            agent.learn(
                left,
                callbacks=[*callbacks, log],
                target_return=options.target_return,
                checkpoint_path=out / CHECKPOINT,
                checkpoint_every=options.checkpoint_every,
            )
        except KeyboardInterrupt:
            print(f"interrupted; continue with trpo-fast resume {out}", file=sys.stderr)
            return 130
    seconds = time.perf_counter() - begun
    recent = agent.recent_returns
    reached = f"return {sum(recent) / len(recent):.1f}" if recent else "no episode ended"
    print(f"{agent.steps:,} steps, {seconds:.1f} s; {reached} over {len(recent)} episodes; {out}")
    agent.close()
    return 0


def write_options(out: Path, goal: int, options: RunOptions) -> None:
    """Write what ``read_options`` reads when the run is resumed."""
    names = [field.name for field in dataclasses.fields(RunOptions)]
    toml.write(out / OPTIONS, {"steps": goal, **{name: getattr(options, name) for name in names}})


def read_options(out: Path) -> tuple[int | None, dict[str, Any]]:
    """(steps in all, fields of ``RunOptions``) of a run; (None, {}) for a checkpoint without."""
    if not (out / OPTIONS).exists():
        return None, {}
    values = toml.read(out / OPTIONS, "run")
    try:
        for name in ("steps", "target_return"):  # without them it would not end where it should
            if name not in values:
                raise ValueError(f"{name}: expected a line {name} = value, got none")
        goal = check_count("steps", values.pop("steps"), most=2**63 - 1)
        RunOptions(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"run: expected the options of a run in {out / OPTIONS}: {error}"
        ) from error
    return goal, values


def checkpoint_of(words: list[str], command: str) -> Path:
    """The checkpoint of the one run that is named: its directory, or the file itself."""
    name = flags.one(words, "RUN", "the directory of one run")
    if not name:
        got = "nothing" if name is None else repr(name)
        raise UsageError(
            f"RUN: expected the directory of a run, as in {command} runs/NAME, got {got}"
        )
    path = Path(name)
    path = path if path.is_file() or path.name == CHECKPOINT else path / CHECKPOINT
    if not path.is_file():
        here = (
            f"where {CHECKPOINT} does not exist" if path.parent.is_dir() else "which does not exist"
        )
        raise CheckpointError(f"RUN: expected the directory of a run, got {path.parent}, {here}")
    return path
