"""A run of the command line as a directory, and training in it.

config.toml             what it trains
run.toml                how long it goes on, and how it reports
checkpoint.safetensors  where it is, from before its first update on
.lock                   held by the process that trains in it
progress.csv, progress.jsonl, TensorBoard events
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
from .._base.options import LONG
from .._base.settings import AtLeast, check_all
from ..train.checkpoint import NAME as CHECKPOINT
from ..train.config import write_toml
from ..train.loggers import (
    ConsoleLogger,
    CsvLogger,
    JsonLogger,
    Logger,
    Loggers,
    TensorBoardLogger,
)
from ..train.parts import example_rows
from ..train.presets import describe
from ..train.rules import check_serves
from ..train.trainer import TRPO

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


def start_run(agent: TRPO, options: RunOptions, steps: int, out: Path) -> int:
    """Make the directory of a new run, and train in it."""
    obs, _ = example_rows(agent)
    # Before there is anything to clean up.
    check_serves(agent.policy, agent.head, agent.config, obs)
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
    begun = time.perf_counter()
    with Loggers(*loggers) as log:
        try:
            agent.learn(
                left,
                callbacks=[log],
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
