"""The command line: train, resume, eval and plot over one run, and one line for every mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")
pytest.importorskip("tyro")

from small_runs import FLAGS, refused, train

from trpo_fast.cli import commands
from trpo_fast.cli.main import main
from trpo_fast.train import checkpoint
from trpo_fast.train.config import from_dict, read_toml
from trpo_fast.train.loggers import read_progress
from trpo_fast.train.trainer import TRPO


def test_train_resume_eval_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert train(out, 256, "--tensorboard") == 0
    assert main(["resume", str(out), "--steps", "128"]) == 0
    assert read_progress(out)["steps"] == [64.0 * i for i in range(1, 7)]
    whole = TRPO(config=from_dict(read_toml(out / "config.toml"))).learn(384)
    saved = checkpoint.load(out / commands.CHECKPOINT)
    assert torch.equal(saved["policy"]["net.0.weight"], whole.policy.state_dict()["net.0.weight"])
    assert list(out.glob("events.*"))
    capsys.readouterr()
    assert main(["eval", str(out), "--episodes", "3"]) == 0
    assert "CartPole-v1 after 384 steps: return" in capsys.readouterr().out
    assert main(["plot", str(out), "--out", str(tmp_path / "c.png")]) == 0
    assert (tmp_path / "c.png").exists()


def test_flags_files_and_presets_meet_in_the_saved_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text("gamma = 0.9\nmax_kl = 0.5\n")
    assert train(tmp_path / "run", 64, "--config", str(file), "--max-kl", "0.25") == 0
    first = capsys.readouterr().err.splitlines()[0]
    kept, replaced = "normalize_observations=False", "rows_per_update, gamma, max_kl"
    assert first == f"preset of CartPole-v1: {kept}; not its {replaced}"
    config = from_dict(read_toml(tmp_path / "run" / "config.toml"))
    assert (config.gamma, config.max_kl, config.seed) == (0.9, 0.25, 5)
    assert config.normalize_observations is False and config.hidden == (8,)


ENVIRONMENTS = [
    ("Pendulum-v1 --config run.toml", "Pendulum-v1", 0.9),
    ("--steps 64 Pendulum-v1", "Pendulum-v1", 0.9),
    ("--env Pendulum-v1 --config run.toml", "Pendulum-v1", 0.9),
    ("--env=Pendulum-v1 Pendulum-v1", "Pendulum-v1", 0.9),
    ("--config run.toml", "MountainCarContinuous-v0", 0.999),
    ("--env CartPole-v1", "CartPole-v1", 0.99),
]


@pytest.mark.parametrize(("words", "env", "gamma"), ENVIRONMENTS)
def test_the_environment_that_trains_has_its_own_preset(
    words: str, env: str, gamma: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text('env = "MountainCarContinuous-v0"\nengine = "tensor"\n')
    assert main(["train", *words.split(), *FLAGS, "--steps", "1"]) == 0
    (run,) = Path("runs").iterdir()
    config = from_dict(read_toml(run / "config.toml"))
    assert run.name.startswith(f"{env}-5-") and (config.env, config.gamma) == (env, gamma)
    tensor = "run.toml" in words
    assert config.engine == ("tensor" if tensor else "sync")
    assert config.critic_epochs == (1 if tensor else 10)  # of the tensor engine's preset


def test_early_stop_and_the_tensor_engine(tmp_path: Path) -> None:
    flags = ["--engine", "tensor", "--target-return", "15", "--checkpoint-every", "1"]
    assert train(tmp_path / "run", 100_000, *flags) == 0
    assert TRPO.load(tmp_path / "run" / commands.CHECKPOINT).steps < 10_000


def test_workers_are_flags(tmp_path: Path) -> None:
    assert train(tmp_path / "a", 192) == 0
    assert train(tmp_path / "b", 64, "--engine", "workers", "--workers", "1") == 0
    assert main(["resume", str(tmp_path / "b"), "--steps", "128"]) == 0
    states = [checkpoint.load(tmp_path / run / commands.CHECKPOINT) for run in "ab"]
    first, second = (state["policy"]["net.0.weight"] for state in states)
    assert torch.equal(first, second) and states[1]["config"]["workers"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "a", "b"], "RUN: expected the directory of one run, got a b"),
        (["train", "CartPole-v1", "--env", "Acrobot-v1"], "ENV: expected one environment, got Ca"),
        (["train", "CartPole-v1", "--config"], "--config: expected a value after it, got nothing"),
        (["eval", "nowhere"], "does not exist"),
        (["resume", "nowhere"], "does not exist"),
        (["plot", "nowhere"], "run: expected a run directory"),
        (["train", "Nowhere-v1"], "gymnasium: Environment `Nowhere` doesn't exist"),
        (["train", "Hopper-v5", "--engine", "tensor"], "expected a tensor environment of"),
        (["train", "CartPole-v1", "--config", "none.toml"], "config: expected a TOML file"),
        (["train", "CartPole-v1", "--device", "cuda:77"], "device: expected one that works here"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(arguments, message, capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, 64) == 0
    assert train(tmp_path, 64) == 1
    assert "expected a directory without a run" in capsys.readouterr().err


def test_rendering_needs_an_environment_that_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert train(tmp_path, 64) == 0
    image = tmp_path / "a.gif"
    status = main(["eval", str(tmp_path), "--episodes", "1", "--render", str(image)])
    try:
        import pygame  # noqa: F401
    except ImportError:
        assert status == 1 and "expected one that renders here" in capsys.readouterr().err
    else:
        assert status == 0 and image.read_bytes()[:4] == b"GIF8"


def test_help_lists_every_setting() -> None:
    command = [sys.executable, "-m", "trpo_fast.cli.main", "train", "Swimmer-v5", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for flag in (
        "--max-kl",
        "--engine",
        "--workers",
        "--critic",
        "--target-return",
        "--vine-branches",
        "0.999",
    ):
        assert flag in text


def test_a_run_is_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under torchrun every process would train a policy of its own and write into one place."""
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert train(tmp_path / "run", 64) == 1
    words = "train: expected one process (docs/processes.md has loops of several), got rank 1 of "
    assert words + "torchrun's 2" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert train(tmp_path / "run", 64) == 0
