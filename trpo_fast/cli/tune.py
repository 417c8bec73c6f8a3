"""The subcommand tune of ``trpo-fast``: search for settings that suit an environment."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typing_extensions import Doc

from .._base import toml
from .._base.options import COUNT, LONG
from .._base.settings import AtLeast, check_all, declared
from ..train.config import Config, make_config
from ..train.search_space import SPACE, narrowed
from ..train.tuning import (
    Search,
    best_of,
    checked,
    finished,
    open_study,
    run_trials,
    to_stderr,
)
from . import flags
from .failures import UsageError


@dataclass
class TuneOptions:
    trials: Annotated[
        int, AtLeast(1), COUNT, Doc("trials in all, those of an earlier search in the file too")
    ] = 50
    steps: Annotated[int, AtLeast(1), LONG, Doc("environment steps of a trial")] = 50_000
    evaluations: Annotated[
        int, AtLeast(1), COUNT, Doc("times that a trial is judged, and may be cut, on its way")
    ] = 10
    eval_episodes: Annotated[int, AtLeast(1), COUNT, Doc("episodes of each evaluation")] = 10
    prune: Annotated[
        bool, Doc("cut trials whose evaluations are below the median of those before")
    ] = True
    storage: Annotated[
        Path | None, Doc("the file of the search, which goes on from it; by default tune-ENV.db")
    ] = None
    search: Annotated[
        str | None, Doc("search among these settings only, as in --search max_kl,gamma")
    ] = None
    ranges: Annotated[
        tuple[str, ...],
        Doc(
            "other values, as in --ranges max_kl=0.003:0.05 gamma=0.99,0.995 hidden=64x64,256x256; "
            "any setting can be searched in this way"
        ),
    ] = ()
    env_options: Annotated[
        tuple[str, ...], Doc("options of the environment, as in --env-options gravity=5.0")
    ] = ()
    out: Annotated[Path | None, Doc("write the best settings to this file as well")] = None

    def __post_init__(self) -> None:
        check_all(self)


def tune(argv: list[str]) -> int:
    """``trpo-fast tune ENV [flags]``: settings that are given as flags are those of every trial,
    and are not searched among; the best are printed as lines that ``--config`` reads.
    """
    words, env = flags.env_of(*flags.split(argv, TuneOptions, Config))
    asks = any(word in flags.HELP for word in words)
    if not env and not asks:
        raise UsageError(
            "ENV: expected an environment, as in trpo-fast tune CartPole-v1, got nothing"
        )
    words, engine = flags.take(words, "--engine")
    chosen: dict[str, Any] = {} if engine is None else {"engine": engine}
    defaults = make_config(env or None, preset=bool(env), **chosen)
    options, config = flags.parse(
        words,
        TuneOptions(),
        defaults,
        prog=f"trpo-fast tune {env or 'ENV'}",
        description=about(),
    )
    search = _search(env or "", options, config, {*chosen, *_named(words)})
    return _run(search, options, Path(f"tune-{search.env.replace('/', '_')}.db"))


def about() -> str:
    """The help's first words, with the space."""
    space = "; ".join(f"{name}: {choices}" for name, choices in SPACE.items())
    return (
        "Search for settings that suit ENV, by Optuna. Settings given as flags hold for every "
        f"trial; the others are searched among these: {space}."
    )


def _named(words: list[str]) -> set[str]:
    """The settings that flags name."""
    names = {
        word.partition("=")[0].lstrip("-").replace("-", "_") for word in words if word[:2] == "--"
    }
    known = set(declared(Config))
    return {name for name in known if name in names or f"no_{name}" in names}


def _search(env: str, options: TuneOptions, config: Config, given: set[str]) -> Search:
    fixed = {name: getattr(config, name) for name in sorted(given)}
    return Search(
        env,
        narrowed(options.search, options.ranges, given),
        fixed,
        steps=options.steps,
        evaluations=options.evaluations,
        episodes=options.eval_episodes,
        seed=config.seed,
        prune=options.prune,
        env_options=flags.environment(options.env_options),
    )


def _run(search: Search, options: TuneOptions, default: Path) -> int:
    search = checked(search)
    storage = options.storage or default
    study = open_study(search, storage)
    if before := len(finished(study)):
        to_stderr(f"going on with {storage}, which has {before} trials")
    try:
        run_trials(study, search, options.trials, to_stderr)
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on with {storage}", file=sys.stderr)
        return 130
    best = best_of(study, search)
    if best is None:
        raise ValueError("trials: expected one that ran to its end, got none")
    settings = {"env": search.env, **search.fixed, **search.used(best.chosen)}
    words = [f"# mean return {best.score:.2f}: trial {best.number} of {len(finished(study))}"]
    words += [f"# --env-options {' '.join(options.env_options)}"] * bool(options.env_options)
    print("\n".join(words) + "\n" + toml.text(settings), end="")
    if options.out is not None:
        toml.write(options.out, settings)
    return 0
