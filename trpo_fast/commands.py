"""The subcommands train, eval, resume and plot of ``trpo-fast``; ``runs`` says what a run is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from . import files, flags
from .arguments import check_count
from .backend import BackendUnavailable
from .checkpoint import CheckpointError
from .config import Config, make_config
from .envs.host import EnvError
from .evaluation import check_video, record_video
from .evaluation import evaluate as evaluate_agent
from .presets import preset_for
from .runs import (
    CHECKPOINT,
    OPTIONS,
    STEPS,
    RunOptions,
    begin,
    claim,
    go_on,
    read_options,
    write_options,
)
from .trainer import TRPO


@dataclass
class TrainOptions(RunOptions):
    steps: int = STEPS
    """environment steps to train for"""
    out: Path | None = None
    """directory of the run; default runs/ENV-SEED-TIME"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("steps", self.steps)


@dataclass
class ResumeOptions(RunOptions):
    steps: int | None = None
    """environment steps to go on for; by default up to the run's own number of them"""
    device: str | None = None
    """where to go on; by default where the run was"""
    trust_env: bool = False
    """import the module of a "module:Id" that the checkpoint names, take all options of its env"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is not None:
            check_count("steps", self.steps)


@dataclass
class Arguments:
    """All flags of ``train``: the run's and the config's, side by side."""

    run: tyro.conf.OmitArgPrefixes[TrainOptions]
    config: tyro.conf.OmitArgPrefixes[Config]


def train(argv: list[str]) -> int:
    """``trpo-fast train [ENV] [--config FILE] [flags]``, in any order.

    The environment is ENV or ``--env``, or else the file's, or else CartPole-v1; the preset is that
    of the environment and engine which train.
    """
    return _guard(lambda: _train(argv))


def _train(argv: list[str]) -> int:
    argv, file = flags.take(argv, "--config")
    argv, words = flags.split(argv, TrainOptions, Config)
    name = flags.one(words, "ENV", "one environment")
    argv, named = flags.take(argv, "--env")
    if name is not None and named not in (None, name):
        raise ValueError(f"ENV: expected one environment, got {name} and --env {named}")
    engine = flags.take(argv, "--engine")[1]
    chosen: dict[str, Any] = {} if engine is None else {"engine": engine}
    config = make_config(name or named, file=file, **chosen)
    run, config = _parse(argv, config, file)
    env = config.env
    moment = time.strftime("%Y%m%d-%H%M%S")
    out = run.out or Path("runs") / f"{env.replace('/', '_')}-{config.seed}-{moment}"
    claim(out)
    return begin(TRPO(env, config=config), run, run.steps, out)


def _parse(argv: list[str], defaults: Config, file: str | None) -> tuple[TrainOptions, Config]:
    """The flags over the defaults, which the help shows."""
    env, preset = defaults.env, preset_for(defaults.env, defaults.engine)
    source = f"those of {file} over its preset" if file else "its preset"
    parsed = tyro.cli(
        Arguments,
        args=argv,
        prog=f"trpo-fast train {env} [--config FILE]",
        description=f"Train on {env}; defaults below are {source}: {preset}",
        default=Arguments(TrainOptions(), defaults),
    )
    return parsed.run, parsed.config


def resume(argv: list[str]) -> int:
    """``trpo-fast resume RUN [--steps N]``: train up to the run's goal, or for N more steps,
    exactly as if never interrupted; with the options the run had, unless told otherwise.
    """
    return _guard(lambda: _resume(argv))


def _resume(argv: list[str]) -> int:
    words, found = flags.split(argv, ResumeOptions)
    if any(word in flags.HELP for word in words):
        tyro.cli(ResumeOptions, args=words, prog="trpo-fast resume RUN")
    out = _directory(found)
    if not (out / CHECKPOINT).is_file():
        raise CheckpointError(
            f"RUN: expected the directory of a run, got {out}, where {CHECKPOINT} does not exist"
        )
    with files.only_writer(out, "RUN"):
        return _resume_in(out, words)


def _resume_in(out: Path, words: list[str]) -> int:
    goal, options = read_options(out)
    run = tyro.cli(
        ResumeOptions, args=words, prog="trpo-fast resume RUN", default=ResumeOptions(**options)
    )
    if goal is None and run.steps is None:
        raise ValueError(
            f"RUN: expected {OPTIONS} with the run's goal in {out}, got none; "
            "--steps N goes on for N more"
        )
    agent = TRPO.load(out / CHECKPOINT, trust_env=run.trust_env, device=run.device)
    until = (goal or 0) if run.steps is None else agent.steps + run.steps
    print(f"resuming {out} at {agent.steps:,} steps, update {agent.updates}", file=sys.stderr)
    done = agent.reached(run.target_return)
    if agent.steps >= until or (done and run.steps is None):
        print("the run has reached its goal; --steps N goes on for N more", file=sys.stderr)
        return 0
    write_options(out, max(goal or 0, until), run)
    if done and run.target_return == options.get("target_return"):
        print("its target return is reached and counts no longer", file=sys.stderr)
        run.target_return = None
    return go_on(agent, run, until, out)


@dataclass
class EvalOptions:
    episodes: int = 10
    seed: int = 10_000
    stochastic: bool = False
    """sample actions in place of the most likely ones"""
    render: Path | None = None
    """record one episode into this .gif, .png or .webp"""
    device: str | None = None
    """where to act; by default where the run was"""
    trust_env: bool = False
    """import the module of a "module:Id" that the checkpoint names, take all options of its env"""


def evaluate(argv: list[str]) -> int:
    """``trpo-fast eval RUN [--episodes N] [--render FILE]``"""

    def go() -> int:
        import warnings

        words, found = flags.split(argv, EvalOptions)
        options = tyro.cli(EvalOptions, args=words, prog="trpo-fast eval RUN")
        if options.render is not None:
            check_video(options.render)  # before the episodes, which take their time
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # that training episodes start anew does not matter here
            path = _directory(found) / CHECKPOINT
            agent = TRPO.load(path, trust_env=options.trust_env, device=options.device)
        result = evaluate_agent(
            agent, options.episodes, deterministic=not options.stochastic, seed=options.seed
        )
        print(f"{agent.config.env} after {agent.steps:,} steps: {result}")
        if options.render is not None:
            total = record_video(agent, options.render, seed=options.seed)
            print(f"an episode of return {total:.1f} is in {options.render}")
        agent.close()
        return 0

    return _guard(go)


def plot(argv: list[str]) -> int:
    """``trpo-fast plot RUN... [--out FILE]``"""
    from .plotting import plot_runs

    if not argv or any(word in flags.HELP for word in argv):
        print("usage: trpo-fast plot RUN... [--out curves.png]")
        return 0 if argv else 2

    def go() -> int:
        runs, out = flags.take(argv, "--out")
        print(plot_runs(runs, out or "curves.png"))
        return 0

    return _guard(go)


def _guard(command: Callable[[], int]) -> int:
    """Mistakes of the user, and what the machine refuses, become one line, not a traceback."""
    try:
        return command()
    except KeyboardInterrupt:
        print("trpo-fast: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        print(f"trpo-fast: {sentence}", file=sys.stderr)
        return 1


def _sentence(error: Exception) -> str | None:
    """What to print about an error; None where it is a mistake of this package."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    known = (ValueError, CheckpointError, EnvError, BackendUnavailable, OSError, ImportError)
    if isinstance(error, known):
        return str(error)
    return f"gymnasium: {error}" if type(error).__module__.startswith("gymnasium") else None


def _directory(words: list[str]) -> Path:
    name = flags.one(words, "RUN", "the directory of one run")
    if name is None:
        raise ValueError("RUN: expected the directory of a run, got nothing")
    path = Path(name)
    return path.parent if path.name == CHECKPOINT else path
