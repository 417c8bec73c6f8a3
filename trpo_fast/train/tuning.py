"""A search for good settings by Optuna: trials of one environment with equal seeds, judged by the
episodes they play on the way, and ended early where they fall behind.

A trial's score is the mean return of its evaluations in the second half of its steps. The study is
an SQLite file: a search that was interrupted goes on from its finished trials, and proposes what it
would have proposed, as the sampler of trial n has a seed of (seed, n) and knows those before it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .._base.arguments import fail
from .._base.extras import require
from .._base.seeds import derive
from .agent import Agent
from .config import Config, make_config, without_unused
from .eval_callback import EvalCallback
from .nets import example_rows
from .record import Record
from .rules import check_serves
from .search_space import Choices
from .trainer import TRPO

STARTUP = 5  # trials that run to their end before any is cut


@dataclass(frozen=True)
class Search:
    """What is searched for, and how."""

    env: str
    space: dict[str, Choices]
    fixed: dict[str, Any]  # settings that every trial has
    steps: int  # of each trial
    evaluations: int  # of each trial
    episodes: int  # of each evaluation
    seed: int
    prune: bool = True
    env_options: dict[str, Any] = field(default_factory=dict)

    @property
    def every(self) -> int:
        """Environment steps between evaluations."""
        return max(1, self.steps // self.evaluations)

    def config(self, chosen: dict[str, Any]) -> Config:
        """The settings of a trial: preset, fixed ones, and the chosen."""
        return make_config(self.env, **{**self.fixed, **self.used(chosen)})

    def used(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """What was chosen, without what the policy, which was chosen as well, does not use."""
        kind = chosen.get("policy", "auto")
        return chosen if kind == "auto" else without_unused(chosen, kind)

    def described(self) -> str:
        """What a study must have in common with a search that goes on with it."""
        values = asdict(self) | {"space": {name: str(c) for name, c in self.space.items()}}
        return json.dumps(values, sort_keys=True)


def checked(search: Search) -> Search:
    """The search, after one agent of its fixed settings was made and asked whether it can train;
    without the deviation of actions where they are discrete.
    """
    config = search.config({})
    agent = TRPO(search.env, config=config, env_options=search.env_options)
    try:
        obs, _ = example_rows(agent)
        check_serves(agent.policy, agent.head, agent.config, obs)
        space = dict(search.space)
        if agent.head.log_std is None:
            space.pop("initial_log_std", None)
    finally:
        agent.close()
    return replace(search, space=space)


@dataclass(frozen=True)
class Best:
    """The best trial: its number, score and settings."""

    number: int
    score: float
    chosen: dict[str, Any]


def open_study(search: Search, storage: Path) -> Any:
    """The study of a file, new or of the same search."""
    optuna = require("optuna", "trpo-fast tune", "tune")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruners = optuna.pruners
    pruner = pruners.MedianPruner(n_startup_trials=STARTUP) if search.prune else None
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{storage}",
            study_name="trpo-fast",
            direction="maximize",
            pruner=pruner or pruners.NopPruner(),
            load_if_exists=True,
        )
        known = study.user_attrs.get("search")
    except Exception as error:  # of SQLite's layers
        if isinstance(error, MemoryError):
            raise
        why = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise fail("storage", "a file of trpo-fast tune, or a new one", f"{storage} ({why})") from (
            error
        )
    if known is None:
        study.set_user_attr("search", search.described())
    elif known != search.described():
        was, now = json.loads(known), json.loads(search.described())
        differing = [name for name in now if was.get(name) != now[name]]
        wanted = ", ".join(f"{name}={was.get(name)}" for name in differing)
        got = ", ".join(f"{name}={now[name]}" for name in differing)
        raise fail("storage", f"the search that {storage} was begun with, {wanted}", got)
    return study


def finished(study: Any) -> list[Any]:
    """The trials that say something: complete, cut short by the pruner, or failed by their values.
    Those that were interrupted are run again.
    """
    return [
        trial
        for trial in study.trials
        if trial.state.name in ("COMPLETE", "PRUNED") or "error" in trial.user_attrs
    ]


def run_trials(study: Any, search: Search, trials: int, say: Callable[[str], None]) -> None:
    """Run trials until the study has so many that are finished."""
    optuna = require("optuna", "trpo-fast tune", "tune")
    state = optuna.trial.TrialState
    while (number := len(finished(study))) < trials:
        seed = derive(search.seed, "trial", number)
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        trial = study.ask()
        chosen = {name: choices.suggest(trial, name) for name, choices in search.space.items()}
        try:
            score, cut = run_trial(trial, search, chosen)
            end = (None, state.PRUNED) if cut else (score, state.COMPLETE)
            words = f"cut, {score:.2f} so far" if cut else f"{score:.2f}"
        except FloatingPointError as error:
            trial.set_user_attr("error", str(error))
            end, words = (None, state.FAIL), str(error)
        except BaseException:
            study.tell(trial, state=state.FAIL)
            raise
        study.tell(trial, end[0], state=end[1])
        settings = " ".join(f"{name}={value}" for name, value in trial.params.items())
        say(f"trial {number + 1} of {trials}: {words}; {settings}")


def run_trial(trial: Any, search: Search, chosen: dict[str, Any]) -> tuple[float, bool]:
    """(the score, whether the pruner cut the trial short)."""
    config = search.config(chosen)
    agent = TRPO(search.env, config=config, env_options=search.env_options)
    evaluation = EvalCallback(search.every, episodes=search.episodes, seed=search.seed)
    played: list[tuple[int, float]] = []
    cut = False

    def report(agent: Agent, record: Record) -> bool | None:
        nonlocal cut
        if np.isnan(record["eval_return"]):
            return None
        played.append((agent.steps, record["eval_return"]))
        trial.report(record["eval_return"], agent.steps // search.every)
        cut = trial.should_prune() and agent.steps < search.steps
        return not cut

    try:
        agent.learn(search.steps, callbacks=[evaluation, report])
    except ValueError as error:  # values that no update can use: these settings diverged
        raise FloatingPointError(f"diverged: {error}") from error
    finally:
        agent.close()
    late = [value for steps, value in played if cut or 2 * steps >= search.steps]
    return float(np.mean(late)), cut


def best_of(study: Any, search: Search) -> Best | None:
    """The complete trial of the highest score, if there is one."""
    trials = [trial for trial in finished(study) if trial.state.name == "COMPLETE"]
    if not trials:
        return None
    best = max(trials, key=lambda trial: (trial.value, -trial.number))
    place = finished(study).index(best) + 1
    replay = require("optuna", "trpo-fast tune", "tune").trial.FixedTrial(best.params)
    chosen = {name: choices.suggest(replay, name) for name, choices in search.space.items()}
    return Best(place, float(best.value), chosen)


def to_stderr(words: str) -> None:
    """One line for whoever waits."""
    print(words, file=sys.stderr, flush=True)
