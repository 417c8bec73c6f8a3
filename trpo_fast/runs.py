"""A run of the command line as a directory, and training in it.

config.toml             what it trains
run.toml                how long it goes on, and how it reports
checkpoint.safetensors  where it is, from before its first update on
progress.csv, progress.jsonl, TensorBoard events
"""

from __future__ import annotations

import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import toml
from .arguments import check_count, check_number
from .config import write_toml
from .logger import ConsoleLogger, CsvLogger, JsonLogger, Loggers, TensorBoardLogger
from .presets import describe
from .rules import check_serves
from .trainer import TRPO

CHECKPOINT, OPTIONS, PROGRESS = "checkpoint.safetensors", "run.toml", "progress.csv"
STEPS = 1_000_000


@dataclass
class RunOptions:
    """What a run keeps beside its config, for those who resume it."""

    target_return: float | None = None
    """stop when the mean return of the last episodes reaches this"""
    checkpoint_every: int = 10
    """updates between checkpoints"""
    print_every: int = 1
    """updates between lines"""
    tensorboard: bool = False
    """write TensorBoard events as well"""

    def __post_init__(self) -> None:
        if self.target_return is not None:
            check_number("target_return", self.target_return)
        check_count("checkpoint_every", self.checkpoint_every)
        check_count("print_every", self.print_every)


def claim(out: Path) -> None:
    """Refuse a directory that holds a run: its logs and the new one's would mix."""
    for name in (CHECKPOINT, PROGRESS):
        if (out / name).exists():
            raise ValueError(
                f"out: expected a directory without a run, got {out} with its {name}; "
                f"trpo-fast resume {out} continues it"
            )


def begin(agent: TRPO, options: RunOptions, steps: int, out: Path) -> int:
    """Make the directory of a new run, and train in it."""
    check_serves(agent.policy, agent.config)  # before there is anything to clean up
    out.mkdir(parents=True, exist_ok=True)
    write_toml(agent.config, out / "config.toml")
    print(describe(agent.config.as_dict()), file=sys.stderr)
    write_options(out, steps, options)
    return go_on(agent, options, steps, out)


def go_on(agent: TRPO, options: RunOptions, until: int, out: Path) -> int:
    """Train until the run has so many steps in all, and keep everything in its directory."""
    left = until - agent.steps
    loggers: list[Any] = [ConsoleLogger(left, every=options.print_every)]
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
    """Keep what ``read_options`` gives to whoever resumes the run."""
    names = [field.name for field in dataclasses.fields(RunOptions)]
    toml.write(out / OPTIONS, {"steps": goal, **{name: getattr(options, name) for name in names}})


def read_options(out: Path) -> tuple[int, dict[str, Any]]:
    """(steps in all, fields of ``RunOptions``) of a run; the defaults for one without them."""
    if not (out / OPTIONS).exists():
        return STEPS, {}
    values = toml.read(out / OPTIONS, "run")
    try:
        goal = check_count("steps", values.pop("steps", STEPS))
        RunOptions(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"run: expected the options of a run in {out / OPTIONS}: {error}"
        ) from error
    return goal, values
