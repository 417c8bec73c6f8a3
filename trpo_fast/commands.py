"""The subcommands train, eval, resume and plot of ``trpo-fast``.

A run is a directory: config.toml, checkpoint.safetensors, progress.csv, progress.jsonl, TensorBoard
events.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from . import flags
from .checkpoint import CheckpointError
from .config import Config, make_config, write_toml
from .envs.host import EnvError
from .evaluation import evaluate as evaluate_agent
from .evaluation import record_video
from .logger import ConsoleLogger, CsvLogger, JsonLogger, Loggers, TensorBoardLogger
from .presets import preset_for
from .trainer import TRPO

CHECKPOINT = "checkpoint.safetensors"


@dataclass
class RunOptions:
    """How long a run goes on and where it is written; what it trains is in the config."""

    steps: int = 1_000_000
    """environment steps to train for"""
    out: Path | None = None
    """directory of the run; default runs/ENV-SEED-TIME"""
    target_return: float | None = None
    """stop when the mean return of the last episodes reaches this"""
    checkpoint_every: int = 10
    """updates between checkpoints"""
    print_every: int = 1
    """updates between lines"""
    tensorboard: bool = False
    """write TensorBoard events as well"""


@dataclass
class ResumeOptions(RunOptions):
    trust_env: bool = False
    """import the module of a "module:Id" that the checkpoint names"""


@dataclass
class Arguments:
    """All flags of ``train``: the run's and the config's, side by side."""

    run: tyro.conf.OmitArgPrefixes[RunOptions]
    config: tyro.conf.OmitArgPrefixes[Config]


def train(argv: list[str]) -> int:
    """``trpo-fast train [ENV] [--config FILE] [flags]``, in any order.

    The environment is ENV or ``--env``, or else the file's, or else CartPole-v1; the preset is that
    of the environment and engine which train.
    """
    return _guard(lambda: _train(argv))


def _train(argv: list[str]) -> int:
    argv, file = flags.take(argv, "--config")
    argv, words = flags.split(argv, RunOptions, Config)
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
    if (out / CHECKPOINT).exists():
        raise ValueError(
            f"out: expected a directory without a run, got {out}; trpo-fast resume continues it"
        )
    agent = TRPO(config.env, config=config)
    out.mkdir(parents=True, exist_ok=True)
    write_toml(config, out / "config.toml")
    return _run(agent, run, out)


def _parse(argv: list[str], defaults: Config, file: str | None) -> tuple[RunOptions, Config]:
    """The flags over the defaults, which the help shows."""
    env, preset = defaults.env, preset_for(defaults.env, defaults.engine)
    source = f"those of {file} over its preset" if file else "its preset"
    parsed = tyro.cli(
        Arguments,
        args=argv,
        prog=f"trpo-fast train {env} [--config FILE]",
        description=f"Train on {env}; defaults below are {source}: {preset}",
        default=Arguments(RunOptions(), defaults),
    )
    return parsed.run, parsed.config


def resume(argv: list[str]) -> int:
    """``trpo-fast resume RUN [--steps N]``: train for N more steps, exactly as if never
    interrupted.
    """

    def go() -> int:
        words, found = flags.split(argv, ResumeOptions)
        run = tyro.cli(ResumeOptions, args=words, prog="trpo-fast resume RUN")
        out = _directory(found)
        agent = TRPO.load(out / CHECKPOINT, trust_env=run.trust_env)
        print(f"resuming {out} at {agent.steps:,} steps, update {agent.updates}", file=sys.stderr)
        return _run(agent, run, out)

    return _guard(go)


def _run(agent: TRPO, run: RunOptions, out: Path) -> int:
    loggers: list[Any] = [ConsoleLogger(run.steps, every=run.print_every)]
    loggers += [CsvLogger(out), JsonLogger(out)]
    if run.tensorboard:
        loggers.append(TensorBoardLogger(out))
    begin = time.perf_counter()
    with Loggers(*loggers) as log:
        try:
            agent.learn(
                run.steps,
                callbacks=[log],
                target_return=run.target_return,
                checkpoint_path=out / CHECKPOINT,
                checkpoint_every=run.checkpoint_every,
            )
        except KeyboardInterrupt:
            # Between updates nothing is half done, but inside one something may be: keep the last
            # checkpoint.
            print(f"interrupted; continue with trpo-fast resume {out}", file=sys.stderr)
            return 130
    seconds = time.perf_counter() - begin
    recent = agent.recent_returns
    reached = f"return {sum(recent) / len(recent):.1f}" if recent else "no episode ended"
    print(f"{agent.steps:,} steps, {seconds:.1f} s; {reached} over {len(recent)} episodes; {out}")
    agent.close()
    return 0


@dataclass
class EvalOptions:
    episodes: int = 10
    seed: int = 10_000
    stochastic: bool = False
    """sample actions in place of the most likely ones"""
    render: Path | None = None
    """record one episode into this GIF"""
    trust_env: bool = False
    """import the module of a "module:Id" that the checkpoint names"""


def evaluate(argv: list[str]) -> int:
    """``trpo-fast eval RUN [--episodes N] [--render FILE]``"""

    def go() -> int:
        import warnings

        words, found = flags.split(argv, EvalOptions)
        options = tyro.cli(EvalOptions, args=words, prog="trpo-fast eval RUN")
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # that training episodes start anew does not matter here
            path = _directory(found) / CHECKPOINT
            agent = TRPO.load(path, trust_env=options.trust_env)
        result = evaluate_agent(
            agent, options.episodes, deterministic=not options.stochastic, seed=options.seed
        )
        print(f"{agent.config.env} after {agent.steps:,} steps: {result}")
        if options.render is not None:
            total = record_video(agent, str(options.render), seed=options.seed)
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


def _guard(command: Any) -> int:
    """Mistakes of the user become one line, not a traceback."""
    try:
        return int(command())
    except (ValueError, CheckpointError, EnvError) as error:
        print(f"trpo-fast: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if type(error).__module__.startswith("gymnasium"):
            print(f"trpo-fast: gymnasium: {error}", file=sys.stderr)
            return 1
        raise


def _directory(words: list[str]) -> Path:
    name = flags.one(words, "RUN", "the directory of one run")
    if name is None:
        raise ValueError("RUN: expected the directory of a run, got nothing")
    path = Path(name)
    return path.parent if path.name == CHECKPOINT else path
