"""The learning benchmark: runs go on where they stopped, and the table says what the runs did."""

from __future__ import annotations

import csv
import importlib
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import trpo_fast

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")
pytest.importorskip("tyro")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "learning.py"
if not SCRIPT.exists():
    pytest.skip("benchmarks need a checkout", allow_module_level=True)


@pytest.fixture
def learning(tmp_path: Path, monkeypatch, capsys) -> Callable[..., str]:
    """A command of the script, and what it prints; in a process of its own where that matters."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    places = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]

    def call(command: str, *flags: str, alone: bool = False) -> str:
        words = [str(SCRIPT), command, *places, *flags]
        if alone:
            env = dict(os.environ, PYTHONPATH=str(Path(trpo_fast.__file__).parents[1]))
            words = [sys.executable, *words]
            done = subprocess.run(words, capture_output=True, text=True, env=env)
            assert done.returncode == 0, done.stderr
            return done.stdout
        monkeypatch.setattr(sys, "argv", words)
        capsys.readouterr()
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return capsys.readouterr().out

    return call


def test_an_interrupted_run_goes_on_and_the_table_shows_it(tmp_path: Path, learning) -> None:
    pytest.importorskip("matplotlib")
    flags = ["--env", "CartPole-v1", "--every", "2048", "--episodes", "2"]
    learning("run", *flags, "--seeds", "0", "1", "--steps", "2048")
    learning("run", *flags, "--seeds", "0", "1", "--steps", "4096", alone=True)
    run = tmp_path / "runs" / "CartPole-v1" / "preset-1"
    with open(run / "evaluation.csv", newline="") as file:
        returns = [float(row["return"]) for row in csv.DictReader(file)]
    learning("collect")
    row = json.loads((tmp_path / "out" / "CartPole-v1.json").read_text())
    assert [seed["seed"] for seed in row["seeds"]] == [0, 1] and row["seeds"][1]["updates"] == 4
    assert [steps for steps, _ in row["seeds"][1]["evaluations"]] == [2048, 4096]
    assert [value for _, value in row["seeds"][1]["evaluations"]] == pytest.approx(returns)
    line = learning("table").splitlines()[-1].split("|")
    finals = [seed["evaluations"][-1][1] for seed in row["seeds"]]
    rule = importlib.import_module("learning_table")._pair  # how many digits a column has
    assert line[4].strip() == rule(np.array(finals)) and line[3].strip() == "2"
    assert rule(np.array([150.25, 150.25])) == "150.2 ± 0.0" and "±" not in rule(np.array([1.0]))
    assert rule(np.array([185.5, 329.5])) == "258 ± 72"
    assert (tmp_path / "out" / "curves.png").stat().st_size > 1000


def test_seeds_collected_before_stay_while_the_settings_do(tmp_path: Path, learning) -> None:
    flags = ["--env", "CartPole-v1", "--every", "1024", "--episodes", "1", "--steps", "1024"]
    out, runs = tmp_path / "out" / "CartPole-v1.json", tmp_path / "runs" / "CartPole-v1"
    for seed, config, wanted in (("0", None, [0]), ("1", None, [0, 1]), ("2", "gamma", [2])):
        file = tmp_path / "settings.toml"
        file.write_text("gamma = 0.9\n" if config else "")
        learning("run", *flags, "--seeds", seed, "--config", str(file))
        learning("collect")
        row = json.loads(out.read_text())
        assert [run["seed"] for run in row["seeds"]] == wanted
        del row["config"]["scale_kl"]  # as if collected before there was such a setting
        out.write_text(json.dumps(row))
        shutil.rmtree(runs)
