"""Command lines of random flags and values: they train, or one sentence says what is wrong."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")
pytest.importorskip("tyro")

from campaign import numbered

from trpo_fast.cli.commands import TrainOptions
from trpo_fast.cli.main import main
from trpo_fast.train.config import Config

pytestmark = pytest.mark.attack

FLAGS = [field.name for kind in (TrainOptions, Config) for field in dataclasses.fields(kind)]
VALUES = ["nan", "-inf", "-1", "0", "", "x", "1e400", "1e-320", "0x10", "[1]", "1 2", "--", "-"]
VALUES += ["none", "None", "True", "9" * 40, "1" * 5000, "1.5", "a\\b", "$(id)", "\t", "\x7f", "٣"]
SMALL = "--num-envs 2 --rows-per-update 32 --hidden 4 --critic-hidden 4 --steps 32".split()


@numbered(30)
def test_a_random_command_line(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    draw = random.Random(number)
    words = ["train", "CartPole-v1", "--out", "run", *SMALL]
    for name in draw.sample(FLAGS, draw.choice([1, 1, 2])):
        words += ["--" + name.replace("_", "-"), *draw.choice(VALUES).split(" ")]
    try:
        status = main(words)
    except SystemExit as end:
        status = int(end.code or 0)
    said = capsys.readouterr().err
    assert status in (0, 1, 2) and "Traceback" not in said, words
    told = said.startswith("trpo-fast: ") or (status == 2 and "trpo-fast train" in said)
    assert status == 0 or told, words
    assert status == 0 or not Path("run").exists(), words
