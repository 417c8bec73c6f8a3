"""``trpo-fast tune``: the space and how flags narrow it, a search from end to end, one that was
interrupted, trials that are cut, and what is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")
pytest.importorskip("tyro")
pytest.importorskip("optuna")

import optuna
from small_runs import refused

from trpo_fast._base import toml
from trpo_fast.cli.main import main
from trpo_fast.train import tuning
from trpo_fast.train.config import Config, from_dict, make_config
from trpo_fast.train.search_space import SPACE, Among, Span, narrowed

TINY = "--num-envs 2 --hidden 8 --critic-hidden 8 --critic-epochs 2 --seed 4".split()
TINY += "--steps 192 --evaluations 3 --eval-episodes 2 --search max_kl,gamma".split()
TINY += "--rows-per-update 64".split()


def tune(out: Path, *words: str, env: str = "CartPole-v1") -> int:
    return main(["tune", env, *TINY, "--storage", str(out / "t.db"), *words])


def trials(out: Path) -> list[Any]:
    study = optuna.load_study(study_name="trpo-fast", storage=f"sqlite:///{out / 't.db'}")
    return tuning.finished(study)


@pytest.mark.parametrize("name", SPACE)
def test_every_value_of_the_space_is_one_of_a_setting(name: str) -> None:
    choices = SPACE[name]
    values = choices.values if isinstance(choices, Among) else (choices.low, choices.high)
    for value in values:
        assert getattr(from_dict({name: value}), name) == value
    trial = optuna.trial.FixedTrial({name: optuna_value(choices)})
    assert choices.suggest(trial, name) == values[0]


def optuna_value(choices: Any) -> Any:
    """The first value as a study keeps it."""
    return str(choices).split(", ")[0] if isinstance(choices, Among) else choices.low


RANGES = {
    "max_kl=0.003:0.05": ("max_kl", Span(0.003, 0.05, log=True)),
    "initial-log-std=-1:0": ("initial_log_std", Span(-1.0, 0.0)),
    "gamma=0.9,0.99": ("gamma", Among((0.9, 0.99))),
    "hidden=64x64,8": ("hidden", Among(((64, 64), (8,)))),
    "rows_per_update=1e3,2_000": ("rows_per_update", Among((1000, 2000))),
    "activation=relu": ("activation", Among(("relu",))),
    "scale_kl=true,False": ("scale_kl", Among((True, False))),
    "chunk_rows=none,64": ("chunk_rows", Among((None, 64))),
}


@pytest.mark.parametrize("word", RANGES)
def test_words_narrow_the_space_and_add_to_it(word: str) -> None:
    name, choices = RANGES[word]
    assert narrowed(None, [word]) == SPACE | {name: choices}
    assert narrowed("damping", [word]) == {"damping": SPACE["damping"], name: choices}
    assert name not in narrowed(None, [word], fixed=[name])


REFUSED = [
    ("max_kl,speed", [], "--search: expected some of max_kl,"),
    (None, ["speed=1,2"], "--ranges: expected settings to search among, got 'speed'"),
    (None, ["seed=1,2"], "--ranges: expected settings to search among, got 'seed'"),
    (None, ["max_kl=0.1:0.01"], "--ranges max_kl=0.1:0.01: expected the lower number first"),
    (None, ["max_kl=0:1"], "--ranges max_kl=0:1: max_kl: expected a finite number above 0, got 0"),
    (None, ["gamma=x"], "--ranges gamma=x: gamma: expected a number, got x"),
    (None, ["hidden=1:3"], "--ranges hidden=1:3: expected values with commas between"),
    (None, ["activation=swish"], "activation: expected one of"),
    (None, ["critic_epochs=1.5"], "expected an integer such as"),
]


@pytest.mark.parametrize(("names", "ranges", "sentence"), REFUSED)
def test_other_words_are_refused(names: Any, ranges: Any, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        narrowed(names, ranges)
    assert sentence in str(caught.value)
    with pytest.raises(ValueError, match="--search: expected at least one setting that no flag"):
        narrowed("gamma", [], fixed=["gamma"])


def test_a_search_prints_what_train_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = tmp_path / "best.toml"
    limit = ["--env-options", "max_episode_steps=20"]
    assert tune(tmp_path, "--trials", "3", "--out", str(best), *limit) == 0
    said = capsys.readouterr()
    found = trials(tmp_path)
    top = max(found, key=lambda trial: trial.value)
    head, options, *lines = said.out.splitlines()
    number = found.index(top) + 1
    assert head == f"# mean return {top.value:.2f}: trial {number} of 3"
    assert options == "# --env-options max_episode_steps=20" and top.value <= 20
    assert "\n".join(lines) + "\n" == best.read_text()
    config = make_config(file=best)
    assert (config.max_kl, config.gamma) == (top.params["max_kl"], float(top.params["gamma"]))
    fixed = (config.seed, config.hidden, config.num_envs, config.rows_per_update)
    assert fixed == (4, (8,), 2, 64)
    assert set(toml.read(best)) == set(
        "env hidden critic_hidden critic_epochs seed num_envs rows_per_update max_kl gamma".split()
    )
    assert said.err.count("trial ") == 3
    out = str(tmp_path / "run")
    assert main(["train", "--config", str(best), "--steps", "64", "--out", out]) == 0
    assert make_config(file=Path(out) / "config.toml") == config


def test_an_interrupted_search_proposes_what_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    assert tune(whole, "--trials", "12") == 0  # more than the sampler's random ones
    run = tuning.run_trial
    for stop in (4, 11):
        calls = [len(trials(parts))] if stop > 4 else [0]

        def until(*arguments: Any, calls: list[int] = calls, stop: int = stop) -> Any:
            calls[0] += 1
            if calls[0] > stop:
                raise KeyboardInterrupt
            return run(*arguments)

        monkeypatch.setattr(tuning, "run_trial", until)
        assert tune(parts, "--trials", "12") == 130
        assert "the same command goes on with" in capsys.readouterr().err
        assert len(trials(parts)) == stop
    monkeypatch.setattr(tuning, "run_trial", run)
    assert tune(parts, "--trials", "12") == 0
    results = [[(t.params, t.value, t.state) for t in trials(out)] for out in (whole, parts)]
    assert results[0] == results[1] and len(results[0]) == 12
    assert tune(parts, "--trials", "12") == 0  # nothing is left to do


def test_trials_that_fall_behind_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Falling:
        """Each trial finds less than the one before."""

        def __init__(self, *_: Any, **__: Any) -> None:
            made.append(len(made))
            self.number = made[-1]

        def __call__(self, agent: Any, record: dict[str, Any]) -> None:
            record["eval_return"] = -100.0 * self.number + agent.updates

    monkeypatch.setattr(tuning, "EvalCallback", Falling)
    assert tune(tmp_path, "--trials", "7") == 0
    states = [trial.state.name for trial in trials(tmp_path)]
    assert states == ["COMPLETE"] * tuning.STARTUP + ["PRUNED"] * 2
    assert [trial.last_step for trial in trials(tmp_path)] == [3] * 5 + [1] * 2
    assert trials(tmp_path)[1].value == -100.0 + 2.5  # the second half: updates 2 and 3
    plain = tmp_path / "plain"
    plain.mkdir()
    assert tune(plain, "--trials", "7", "--no-prune") == 0
    assert {trial.state.name for trial in trials(plain)} == {"COMPLETE"}


def test_a_trial_that_diverges_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learn, seen = tuning.TRPO.learn, []

    def fails(agent: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(agent)
        if len(seen) == 1:
            raise ValueError("returns: expected finite values")
        return learn(agent, *arguments, **options)

    monkeypatch.setattr(tuning.TRPO, "learn", fails)
    assert tune(tmp_path, "--trials", "2") == 0
    assert "trial 1 of 2: diverged: returns: expected finite" in capsys.readouterr().err
    assert [trial.state.name for trial in trials(tmp_path)] == ["FAIL", "COMPLETE"]


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", "CartPole-v1", *TINY, "--storage", str(tmp_path / "t.db")]
    refused(["tune"], "ENV: expected an environment", capsys, status=2)
    refused([*words, "--env", "x"], "ENV: expected one environment", capsys)
    with pytest.raises(SystemExit):  # by tyro, which draws a box around it
        main([*words, "--trials", "0"])
    assert "trials: expected an integer of at least 1, got 0" in capsys.readouterr().err
    assert not (tmp_path / "t.db").exists()
    refused(["tune", "Nowhere-v0", *words[2:]], "Nowhere", capsys)
    assert not (tmp_path / "t.db").exists()
    assert tune(tmp_path, "--trials", "1") == 0
    capsys.readouterr()
    begun = f"storage: expected the search that {tmp_path / 't.db'} was begun with, steps=192, got"
    refused([*words, "--steps", "99"], f"{begun} steps=99", capsys)
    (tmp_path / "t.db").write_text("no database, " * 100)
    refused(words, "storage: expected a file of trpo-fast tune, or a new one", capsys)


def test_the_deviation_of_actions_is_searched_where_there_is_one() -> None:
    for env, there in (("CartPole-v1", False), ("Pendulum-v1", True)):
        search = tuning.Search(env, narrowed(None, ()), {}, 64, 1, 1, 0)
        assert ("initial_log_std" in tuning.checked(search).space) == there


def test_without_optuna_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)  # type: ignore[arg-type]
    words = ["tune", "CartPole-v1", *TINY, "--storage", str(tmp_path / "t.db")]
    refused(words, 'trpo-fast tune needs optuna: pip install "trpo-fast[tune]"', capsys)


def test_help_has_the_space(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "max_kl: 0.001 to 0.1 (log)" in said and "--prune" in said
    assert Config.max_kl == 0.01
