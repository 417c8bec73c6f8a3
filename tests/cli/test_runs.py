"""Runs of the command line that are interrupted, resumed, refused, or whose disk is full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")
pytest.importorskip("tyro")

from small_runs import refused, train

from trpo_fast._base import toml
from trpo_fast.cli.main import main
from trpo_fast.cli.runs import CHECKPOINT, OPTIONS
from trpo_fast.train import checkpoint
from trpo_fast.train.loggers import read_progress
from trpo_fast.train.trainer import TRPO


def weights(out: Path) -> torch.Tensor:
    return checkpoint.load(out / CHECKPOINT)["policy"]["net.0.weight"]


def updates(printed: str) -> list[str]:
    """The updates that have a line."""
    words = [line.split()[0] for line in printed.splitlines() if line.split()]
    return [word for word in words if word.isdigit()]


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run into ``out`` that Ctrl-C ends in the update after ``updates``."""

    def run(out: Path, updates: int, *flags: str) -> int:
        once = TRPO.train_once

        def stop(agent: TRPO) -> Any:
            if agent.updates == updates:
                raise KeyboardInterrupt
            return once(agent)

        with monkeypatch.context() as patch:
            patch.setattr(TRPO, "train_once", stop)
            return train(out, 256, *flags)

    return run


@pytest.mark.parametrize(("updates", "every"), [(0, "10"), (2, "10"), (3, "2")])
def test_an_interrupted_run_resumes_to_its_goal(
    updates: int, every: str, interrupted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = tmp_path / "run", tmp_path / "whole"
    assert interrupted(out, updates, "--checkpoint-every", every) == 130
    assert f"continue with trpo-fast resume {out}" in capsys.readouterr().err
    saved = checkpoint.load(out / CHECKPOINT)["counters"][1]
    assert saved == updates - updates % int(every)
    assert train(out, 256) == 1
    assert "expected a directory without a run" in capsys.readouterr().err
    assert main(["resume", str(out)]) == 0 and train(whole, 256) == 0
    assert torch.equal(weights(out), weights(whole))
    for name in ("update", "steps", "return", "kl"):
        first, second = (torch.tensor(read_progress(run)[name]) for run in (out, whole))
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


def test_a_resumed_run_keeps_its_options(
    interrupted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = "--target-return 11 --checkpoint-every 1 --print-every 2 --tensorboard".split()
    assert interrupted(tmp_path, 1, *flags) == 130
    events = len(list(tmp_path.glob("events.*")))
    capsys.readouterr()
    assert main(["resume", "--steps", "6400", str(tmp_path)]) == 0
    assert checkpoint.load(tmp_path / CHECKPOINT)["counters"][0] < 6400  # by its target
    kept = toml.read(tmp_path / OPTIONS)
    assert kept == {
        "steps": 6464,  # further than the run was to go
        "target_return": 11.0,
        "checkpoint_every": 1,
        "print_every": 2,
        "tensorboard": True,
        "wandb": None,
        "eval_every": None,
        "eval_episodes": 10,
        "env_options": [],
    }
    assert events and len(list(tmp_path.glob("events.*"))) > events
    err = capsys.readouterr().err
    assert "2" in updates(err) and "3" not in updates(err)


def test_lines_are_printed_every_so_many_updates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, 320, "--print-every", "2") == 0
    assert updates(capsys.readouterr().err) == ["2", "4"]


def test_a_run_at_its_goal_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, 128) == 0
    before = weights(tmp_path)
    assert main(["resume", str(tmp_path)]) == 0
    assert "--steps N goes on for N more" in capsys.readouterr().err
    assert torch.equal(before, weights(tmp_path))
    (tmp_path / OPTIONS).write_text("steps = 512\ntarget_return = 400.0\n")
    assert main(["resume", str(tmp_path), "--steps", "64"]) == 0
    kept = toml.read(tmp_path / OPTIONS)
    assert (kept["steps"], kept["target_return"]) == (512, 400.0)  # as far as before
    (tmp_path / OPTIONS).write_text("steps = 128\nprint_every = 0\n")
    assert main(["resume", str(tmp_path)]) == 1
    assert "run: expected the options of a run in" in capsys.readouterr().err


def test_a_run_at_its_target_goes_on_only_when_told_for_how_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, 100_000, "--target-return", "11") == 0
    steps = checkpoint.load(tmp_path / CHECKPOINT)["counters"][0]
    assert main(["resume", str(tmp_path)]) == 0 and steps < 10_000
    assert "the run has reached its goal" in capsys.readouterr().err
    assert main(["resume", str(tmp_path), "--steps", "256"]) == 0
    assert checkpoint.load(tmp_path / CHECKPOINT)["counters"][0] == steps + 256
    with pytest.raises(SystemExit):  # the run has its place
        main(["resume", str(tmp_path), "--out", str(tmp_path / "other")])


def test_logs_without_a_checkpoint_are_a_run_as_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "progress.csv").write_text("update\n1\n")
    assert train(tmp_path, 64) == 1
    assert "without a run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["progress.csv"]


REFUSED = [
    (
        "train CartPole-v1 --backend reference --precision bf16x3",
        "backend='reference': expected one that can serve, got: precision=",
    ),
    ("train CartPole-v1 --out file --steps 64", "file: File exists"),
    ("train CartPole-v1 --out file/run --steps 64", "file/run: Not a directory"),
    ("plot run --out nodir/x.png", "nodir/x.png: No such file or directory"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_what_the_machine_refuses_is_one_line(
    words: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("run").mkdir()
    names = ["update", "steps", "return", "kl", "explained_variance", "seconds"]
    names += [f"{part}_seconds" for part in ("env", "act", "update", "critic")]
    Path("run", "progress.csv").write_text(",".join(names) + "\n" + ",".join("1" * 10) + "\n")
    refused(words.split(), message, capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]


@pytest.mark.parametrize(
    "flag",
    ["--steps 0", "--checkpoint-every 0", "--print-every 0", "--precision fp8", "--backend x"],
)
def test_options_out_of_range_are_refused_before_there_is_a_directory(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as status:
        main(["train", "CartPole-v1", *flag.split()])
    assert status.value.code == 2 and not list(tmp_path.iterdir())
    assert flag.split()[0].lstrip("-") in capsys.readouterr().err.replace("_", "-")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_on_a_full_disk_keeps_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "progress.jsonl").symlink_to("/dev/full")
    assert train(tmp_path, 640, "--checkpoint-every", "1") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"trpo-fast: {tmp_path / 'progress.jsonl'}: No space left on device"
    (tmp_path / "progress.jsonl").unlink()
    assert main(["resume", str(tmp_path)]) == 0
    assert read_progress(tmp_path)["steps"] == [64.0 * i for i in range(1, 11)]


def test_interrupted_commands_print_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    assert train(tmp_path, 64) == 0
    monkeypatch.setattr("trpo_fast.cli.commands.evaluate_agent", stop)
    assert main(["eval", str(tmp_path)]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "trpo-fast: interrupted"
