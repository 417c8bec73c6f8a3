"""The subcommands train, eval, resume and plot of ``trpo-fast``; ``runs`` says what a run is."""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from typing_extensions import Doc

from .._base import files
from .._base.command_checks import check_alone, check_size, working_device
from .._base.options import LONG
from .._base.settings import AtLeast
from ..train.config import Config, make_config, read_toml
from ..train.evaluate import check_video, record_video
from ..train.evaluate import evaluate as evaluate_agent
from ..train.presets import in_flags
from ..train.trainer import TRPO
from . import flags
from .failures import UsageError
from .runs import (
    CHECKPOINT,
    OPTIONS,
    STEPS,
    RunOptions,
    check_boards,
    checkpoint_of,
    continue_run,
    read_options,
    refuse_used,
    start_run,
    write_options,
)


@dataclass
class TrainOptions(RunOptions):
    steps: Annotated[
        int, AtLeast(1), LONG, Doc("environment steps to train for, rounded up to whole updates")
    ] = STEPS
    out: Annotated[Path | None, Doc("directory of the run; by default runs/ENV-SEED-TIME")] = None


@dataclass
class ResumeOptions(RunOptions):
    """Go on with RUN, the directory of a run, from its last checkpoint."""

    steps: Annotated[
        int | None,
        AtLeast(1),
        LONG,
        Doc("environment steps to go on for; by default up to the run's own number of them"),
    ] = None
    device: Annotated[str | None, Doc("where to go on; by default where the run was")] = None
    trust_env: Annotated[
        bool,
        Doc(
            'import the module of a "module:Id" that the checkpoint names, and take all options '
            "of its environment"
        ),
    ] = False


def train(argv: list[str]) -> int:
    """``trpo-fast train ENV [--config FILE] [flags]``, in any order.

    The environment is ENV or ``--env``, or else the file's; the preset is that of the environment
    and engine which train.
    """
    argv, file = flags.take(argv, "--config")
    argv, words = flags.split(argv, TrainOptions, Config)
    argv, env = flags.env_of(argv, words)
    engine = flags.take(argv, "--engine")[1]
    chosen: dict[str, Any] = {} if engine is None else {"engine": engine}
    if env is None and file is not None:
        env = read_toml(file).get("env")
    if env in (None, "") and not _asks_for_help(argv):
        got = "nothing" if env is None else repr(env)
        raise UsageError(
            f"ENV: expected an environment, as in trpo-fast train CartPole-v1, got {got}"
        )
    config = make_config(env or None, file=file, preset=bool(env), **chosen)
    run, config = _parse(argv, config, env, file)
    check_alone("train")
    _check_device(config.device)
    env = config.env
    moment = time.strftime("%Y%m%d-%H%M%S")
    out = run.out or Path("runs") / f"{env.replace('/', '_')}-{config.seed}-{moment}"
    refuse_used(out)
    options = flags.environment(run.env_options)
    return start_run(TRPO(env, config=config, env_options=options), run, run.steps, out)


def _parse(
    argv: list[str], defaults: Config, env: str | None, file: str | None
) -> tuple[TrainOptions, Config]:
    """The flags over the defaults, which the help shows."""
    if env:
        source = f"those of {file}, and else of its preset" if file else "those of its preset"
        preset = in_flags(env, defaults.engine)
        about = f"Train on {env}. Defaults below are {source}: {preset}."
    else:
        about = (
            "Train on ENV: a gymnasium id such as CartPole-v1, module:Id, or the name of a tensor "
            "environment. Many have a preset of their own; trpo-fast train ENV --help shows it."
        )
    about += (
        " --config FILE reads settings from a TOML file, such as a run's config.toml; flags win."
    )
    return flags.parse(
        argv,
        TrainOptions(),
        defaults,
        prog=f"trpo-fast train {env or 'ENV'} [--config FILE]",
        description=about,
    )


def resume(argv: list[str]) -> int:
    """``trpo-fast resume RUN [--steps N]``: train up to the run's goal, or for N more steps,
    exactly as if never interrupted; with the options the run had, unless told otherwise.
    """
    words, found = flags.split(argv, ResumeOptions)
    if _asks_for_help(words):
        tyro.cli(ResumeOptions, args=words, prog="trpo-fast resume RUN")
    path = checkpoint_of(found, "trpo-fast resume")
    if path.name != CHECKPOINT:
        raise ValueError(f"RUN: expected the directory of a run, got {path}, a file beside it")
    check_alone("resume")
    out = path.parent
    with files.only_writer(out, "RUN"):
        return _resume_in(out, words)


def _resume_in(out: Path, words: list[str]) -> int:
    goal, options = read_options(out)
    run = tyro.cli(
        ResumeOptions, args=words, prog="trpo-fast resume RUN", default=ResumeOptions(**options)
    )
    _check_device(run.device)
    check_boards(run)
    if goal is None and run.steps is None:
        raise ValueError(
            f"RUN: expected {OPTIONS} with the run's goal in {out}, got none; "
            "--steps N goes on for N more"
        )
    # Those of the run are in its checkpoint, where options that may open files are refused.
    again = flags.environment(run.env_options) if "--env-options" in words else None
    agent = TRPO.load(
        out / CHECKPOINT, trust_env=run.trust_env, device=run.device, env_options=again
    )
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
    return continue_run(agent, run, until, out)


@dataclass
class EvalOptions:
    """Play episodes with the policy of RUN, the directory of a run or a checkpoint file."""

    episodes: int = 10
    """episodes to run"""
    seed: int = 10_000
    """of the first episode"""
    stochastic: bool = False
    """sample actions in place of the most likely ones"""
    render: Path | None = None
    """record one episode into this .gif, .png or .webp"""
    device: str | None = None
    """where to act; by default where the run was"""
    trust_env: bool = False
    """import the module of a "module:Id" that the checkpoint names, take all options of its env"""
    env_options: tuple[str, ...] = ()
    """other options of the environment, as in --env-options gravity=5.0; by default the run's"""


def evaluate(argv: list[str]) -> int:
    """``trpo-fast eval RUN [--episodes N] [--render FILE]``"""
    words, found = flags.split(argv, EvalOptions)
    options = tyro.cli(EvalOptions, args=words, prog="trpo-fast eval RUN")
    check_size("episodes", options.episodes)
    check_size("seed", options.seed, least=0)
    _check_device(options.device)
    if options.render is not None:
        check_video(options.render)  # before the episodes, which take their time
    path = checkpoint_of(found, "trpo-fast eval")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that training episodes start anew does not matter here
        agent = TRPO.load(
            path,
            trust_env=options.trust_env,
            device=options.device,
            env_options=flags.environment(options.env_options) or None,
        )
    result = evaluate_agent(
        agent, options.episodes, deterministic=not options.stochastic, seed=options.seed
    )
    print(f"{agent.config.env} after {agent.steps:,} steps: {result}")
    if options.render is not None:
        total = record_video(agent, options.render, seed=options.seed)
        print(f"an episode of return {total:.1f} is in {options.render}")
    agent.close()
    return 0


def plot(argv: list[str]) -> int:
    """``trpo-fast plot RUN... [--out FILE]``"""
    from . import plotting

    usage = "trpo-fast plot RUN... [--out curves.png]"
    if _asks_for_help(argv):
        print(f"usage: {usage}\n\n{plotting.__doc__}".rstrip())
        return 0
    runs, out = flags.take(argv, "--out")
    if unknown := [word for word in runs if word.startswith("-")]:
        raise UsageError(f"plot: expected {usage}, got {unknown[0]}")
    if not runs:
        raise UsageError(
            f"RUN: expected the directories of one or more runs, as in {usage}, got nothing"
        )
    for note in plotting.notes(runs):
        print(note, file=sys.stderr)
    print(plotting.plot_runs(runs, out or "curves.png"))
    return 0


def _asks_for_help(words: list[str]) -> bool:
    return any(word in flags.HELP for word in words)


def _check_device(device: str | None) -> None:
    """Before anything is made there; "auto" and None leave the choice to the agent."""
    if device not in (None, "auto"):
        working_device(device)
