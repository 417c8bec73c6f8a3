"""The command line before its flags are parsed: environments and runs may stand anywhere."""

from __future__ import annotations

import pytest

from trpo_fast import flags
from trpo_fast.config import Config

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
