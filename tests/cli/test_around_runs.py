"""What stands around a run of the command line: options of its environment, evaluations, Weights &
Biases.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")
pytest.importorskip("tyro")

from small_runs import refused, train

from trpo_fast._base import toml
from trpo_fast.cli import flags
from trpo_fast.cli.commands import TrainOptions
from trpo_fast.cli.main import main
from trpo_fast.cli.runs import CHECKPOINT, OPTIONS
from trpo_fast.train import checkpoint
from trpo_fast.train.config import Config
from trpo_fast.train.eval_callback import BEST, EVALUATIONS, read_evaluations
from trpo_fast.train.loggers import read_progress

WORDS = {
    "gravity=5": {"gravity": 5},
    "gravity=-5.5 healthy=false": {"gravity": -5.5, "healthy": False},
    "on=True off=False no=None": {"on": True, "off": False, "no": None},
    "name=rough path=a=b empty=": {"name": "rough", "path": "a=b", "empty": ""},
    'range=[-1,1.5] word="5" some={"a":1}': {"range": [-1, 1.5], "word": "5", "some": {"a": 1}},
    "twice=1 twice=2": {"twice": 2},
}


@pytest.mark.parametrize("words", WORDS)
def test_words_become_options(words: str) -> None:
    assert flags.environment(tuple(words.split())) == WORDS[words]


@pytest.mark.parametrize("word", ["gravity", "=5", "5=5", "a b=3"])
def test_other_words_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"^--env-options: expected words such as gravity=5"):
        flags.environment((word,))


def test_the_flag_takes_words_with_an_equals_sign_only() -> None:
    line = "--env-options a=1 b=-2 CartPole-v1 --seed 3 --env-options=c=x=y --tensorboard"
    given, others = flags.split(line.split(), TrainOptions, Config)
    assert others == ["CartPole-v1"]
    assert given == "--seed 3 --tensorboard --env-options a=1 b=-2 c=x=y".split()


def lengths(out: Path) -> list[float]:
    return [n for n in read_progress(out)["length"] if n == n]


def test_a_runs_environment_keeps_its_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train(out, 128, "--env-options", "max_episode_steps=7", "sutton_barto_reward=true") == 0
    assert max(lengths(out)) <= 7
    kept = checkpoint.load(out / CHECKPOINT)["env_options"]
    assert kept == {"max_episode_steps": 7, "sutton_barto_reward": True}
    words = ["max_episode_steps=7", "sutton_barto_reward=true"]
    assert toml.read(out / OPTIONS)["env_options"] == words
    assert main(["resume", str(out), "--steps", "128"]) == 0
    assert max(lengths(out)) <= 7 and len(read_progress(out)["update"]) == 4
    capsys.readouterr()
    assert main(["eval", str(out), "--episodes", "2"]) == 0
    said = capsys.readouterr().out
    assert "over 2 episodes of 7 steps" in said and "return 0.0" in said
    shorter = ["--env-options", "max_episode_steps=3"]
    assert main(["eval", str(out), "--episodes", "2", *shorter]) == 0
    assert "return 3.0 +- 0.0 over 2 episodes of 3 steps" in capsys.readouterr().out
    assert main(["resume", str(out), "--steps", "64", *shorter]) == 0
    assert toml.read(out / OPTIONS)["env_options"] == shorter[1:]
    assert checkpoint.load(out / CHECKPOINT)["env_options"] == {"max_episode_steps": 3}


def test_options_that_may_open_files_are_given_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--env-options", "render_mode=/x"]
    with pytest.warns(UserWarning, match="render_mode"):
        assert train(tmp_path, 64, *words) == 0
    assert (tmp_path / OPTIONS).read_text().count("render_mode=/x") == 1
    capsys.readouterr()
    for command in (["eval"], ["resume", "--steps", "64"]):
        refused([*command, str(tmp_path)], "env_options: expected numbers and words that", capsys)
        with pytest.warns(UserWarning, match="render_mode"):
            assert main([*command, str(tmp_path), *words]) == 0
        capsys.readouterr()


@pytest.mark.parametrize("engine", ["sync", "tensor", "workers"])
def test_an_option_the_environment_does_not_have_is_one_line(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--out", str(tmp_path / "run"), "--engine", engine, "--workers", "1"]
    words += ["--num-envs", "2"]
    for name in ("weight", *(["device"] if engine == "tensor" else [])):
        status = main(["train", "CartPole-v1", *words, "--env-options", f"{name}=5"])
        error = capsys.readouterr().err
        assert status == 1 and error.count("\n") == 1 and name in error
        assert "env_options: expected arguments of CartPole-v1" in error


def test_evaluations_of_a_run_and_of_a_resumed_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plain = tmp_path / "run", tmp_path / "plain"
    assert train(out, 192, "--eval-every", "1e2", "--eval-episodes", "3") == 0
    assert train(plain, 320) == 0
    assert "evaluation: return" in capsys.readouterr().err
    assert main(["resume", str(out), "--steps", "128"]) == 0
    rows = read_evaluations(out / EVALUATIONS)
    assert [row["steps"] for row in rows] == [128.0, 256.0, 320.0]
    logged = [value for value in read_progress(out)["eval_return"] if value == value]
    assert logged == [row["return"] for row in rows]
    best = max(row["return"] for row in rows)
    capsys.readouterr()
    assert main(["eval", str(out / BEST), "--episodes", "3"]) == 0
    assert f"return {best:.1f}" in capsys.readouterr().out
    refused(["resume", str(out / BEST)], "RUN: expected the directory of a run, got", capsys)
    found, wanted = (checkpoint.load(d / CHECKPOINT)["policy"] for d in (out, plain))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_run_may_log_to_weights_and_biases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, float]] = []
    module: Any = ModuleType("wandb")
    module.log, module.define_metric = rows.append, lambda *_, **__: None
    module.finish = lambda: rows.append({})
    module.init = lambda **options: rows.append(options) or module
    monkeypatch.setitem(sys.modules, "wandb", module)
    assert train(tmp_path, 128, "--wandb", "walks") == 0
    start, first, second, end = rows
    assert (start["project"], start["dir"], end) == ("walks", str(tmp_path), {})
    assert (first["steps"], second["steps"]) == (64, 128) and "rollout/return" in second
    assert main(["resume", str(tmp_path), "--steps", "64"]) == 0
    assert rows[4]["id"] == start["id"] and rows[5]["steps"] == 192


@pytest.mark.parametrize("command", ["train", "resume"])
def test_a_program_that_is_not_here_is_named_before_anything_is_written(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "run"
    words = ["train", "CartPole-v1", "--out", str(out)]
    if command == "resume":
        assert train(out, 64) == 0
        words = ["resume", str(out), "--steps", "64"]
        capsys.readouterr()
    before = (out / OPTIONS).read_text() if out.exists() else None
    for module, flags_of in (("wandb", ["--wandb", "x"]), ("tensorboard", ["--tensorboard"])):
        monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]
        refused([*words, *flags_of], f"needs {module}: pip install", capsys)
    refused([*words, "--wandb", ""], "project: expected the name of a project", capsys)
    assert before == ((out / OPTIONS).read_text() if out.exists() else None)
