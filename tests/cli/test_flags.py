"""The command line before its flags are parsed: environments and runs may stand anywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("tyro")

from small_runs import refused

from trpo_fast._base.settings import declared
from trpo_fast.bench import cli as bench
from trpo_fast.cli import flags
from trpo_fast.cli.commands import TrainOptions
from trpo_fast.train.config import Config, groups

INTEGERS = [
    ("--steps 1e5", "--steps 100000"),
    ("--steps 1_000_000", "--steps 1000000"),
    ("--steps=2.5e3 --print-every +1", "--steps=2500 --print-every 1"),
    ("--hidden 1e1 6_4 --workers None", "--hidden 10 64 --workers None"),
    ("--num-envs -1 --chunk-rows 1e4", "--num-envs -1 --chunk-rows 10000"),
    ("--gamma 1e-1 --max-kl 1_0", "--gamma 1e-1 --max-kl 1_0"),  # numbers that are tyro's to read
]


@pytest.mark.parametrize(("text", "plain"), INTEGERS)
def test_integers_are_read_as_people_write_them(text: str, plain: str) -> None:
    given, others = flags.split(f"{text} CartPole-v1".split(), TrainOptions, Config)
    assert (given, others) == (plain.split(), ["CartPole-v1"])


@pytest.mark.parametrize("value", ["1.5", "abc", "nan", "inf", "1e-3", "1e999999999", "", "None"])
@pytest.mark.parametrize("flag", ["--steps", "--num-envs", "--hidden"])
def test_other_numbers_are_no_integers(flag: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"^{flag}: expected an integer such as 100000 or 1e5, go"):
        flags.split([f"{flag}={value}"], TrainOptions, Config)


def test_every_integer_flag_takes_them() -> None:
    integers = [s.name for s in declared(Config).values() if s.kind is int]
    assert len(integers) > 15
    for name in integers:
        flag = "--" + name.replace("_", "-")
        assert flags.split([flag, "1e3"], Config) == ([flag, "1000"], [])
    assert bench.parser().parse_args(["cg", "--rows", "1e3"]).rows == 1000


SWITCHES = [
    ("--tensorboard True", "--tensorboard"),
    ("--tensorboard false", "--no-tensorboard"),
    ("--scale-kl=TRUE", "--scale-kl"),
    ("--normalize-rewards=False --seed 3", "--no-normalize-rewards --seed 3"),
    ("--no-scale-kl --seed 3", "--no-scale-kl --seed 3"),
]


@pytest.mark.parametrize(("text", "plain"), SWITCHES)
def test_a_switch_may_be_given_its_value(text: str, plain: str) -> None:
    given, others = flags.split(f"CartPole-v1 {text}".split(), TrainOptions, Config)
    assert (given, others) == (plain.split(), ["CartPole-v1"])


def test_a_switch_takes_no_other_value() -> None:
    with pytest.raises(ValueError, match="--tensorboard: expected true or false, got maybe"):
        flags.split(["--tensorboard=maybe"], TrainOptions)
    with pytest.raises(ValueError, match="--no-scale-kl: expected no value after it, got True"):
        flags.split(["--no-scale-kl", "True"], Config)


def test_help_has_groups_and_a_description_of_every_flag(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        flags.parse(["--help"], TrainOptions(), Config(), prog="train", description="words")
    text = " ".join(re.sub("[│─╭╮╰╯]+|-{3,}", " ", capsys.readouterr().out).split())
    for name, group in groups().items():
        assert f" {name} options {' '.join(group.__doc__.split())} --" in text
    for kind in (Config, TrainOptions):
        for setting in declared(kind).values():
            flag = setting.name.replace("_", "-")
            assert f" --{flag}" in text and f"{setting.help} (default: " in text, flag


WORDS = [
    "CartPole-v1 --steps 100",
    "--steps 100 CartPole-v1",
    "--steps=100 CartPole-v1",
    "--hidden 8 8 CartPole-v1 --seed 3",
    "--scale-kl CartPole-v1 --gamma 0.9",
    "--no-normalize-rewards CartPole-v1",
    "--no_normalize_rewards CartPole-v1 --help",
    "--help CartPole-v1",
    "--gamma -1 CartPole-v1 --hidden",
]


@pytest.mark.parametrize("text", WORDS)
def test_the_word_of_no_flag_is_found_wherever_it_stands(text: str) -> None:
    given, others = flags.split(text.split(), Config)
    assert others == ["CartPole-v1"]
    assert given == [word for word in text.split() if word != "CartPole-v1"]


def test_a_flag_is_taken_with_its_value() -> None:
    words = "a --out x b --out=y --seed 3".split()
    assert flags.take(words, "--out") == (["a", "b", "--seed", "3"], "y")
    assert flags.take(words, "--other") == (words, None)
    for text in ("a --out", "--out --seed 3"):
        with pytest.raises(ValueError, match="--out: expected a value after it, got nothing"):
            flags.take(text.split(), "--out")


def test_one_word_is_one() -> None:
    assert flags.one([], "RUN", "a run") is None and flags.one(["a"], "RUN", "a run") == "a"
    with pytest.raises(ValueError, match="RUN: expected a run, got a b"):
        flags.one(["a", "b"], "RUN", "a run")


REFUSED = [
    ("--max-kl inf", "max_kl: expected a finite number above 0, got inf"),
    ("--num-envs 1e12", "num_envs: expected an integer of at most 1000000, got 1000000000000"),
    ("--rows-per-update 1e10", "rows_per_update: expected an integer of at most 2147483647, got 1"),
    ("--seed 9223372036854775808", "seed: expected an integer of at most 9223372036854775807, got"),
    ("--hidden 64 1e10", "hidden: expected a sequence of integers from 1 to 2147483647, got [64"),
    ("--hidden 64,64", "--hidden: expected numbers with spaces between, got 64,64"),
    ("--damping nan", "damping: expected a finite number of at least 0, got nan"),
    ("--cg-tol 1", "cg_tol: expected a number of at least 0 and below 1, got 1.0"),
    ("--steps 1.5", "--steps: expected an integer such as 100000 or 1e5, got 1.5"),
    (
        "--penalty-min 2 --penalty-max 1",
        "penalty_max: expected at least penalty_min 2",
    ),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_settings_out_of_range_are_one_line_with_the_flags_name(
    words: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(["train", "CartPole-v1", *words.split()], message, capsys)
    assert list(tmp_path.iterdir()) == []
