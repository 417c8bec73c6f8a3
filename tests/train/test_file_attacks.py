"""Files under attack: several writers, planted links, full disks, damaged settings, and kills at
the worst moment.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")
pytest.importorskip("tyro")

from limits import HANGS
from small_runs import refused, train

from trpo_fast._base import files, toml
from trpo_fast.cli import commands, runs
from trpo_fast.cli.main import main
from trpo_fast.cli.runs import CHECKPOINT, OPTIONS, RunOptions
from trpo_fast.train import checkpoint
from trpo_fast.train.checkpoint import CheckpointError, load, save
from trpo_fast.train.loggers import read_progress
from trpo_fast.train.trainer import TRPO

pytestmark = pytest.mark.attack

FORK = multiprocessing.get_context("fork")


@contextlib.contextmanager
def forked(work: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
    """A child process that does the work, killed at the end."""
    child = FORK.Process(target=work, args=arguments, daemon=True)
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()


def save_forever(path: Path, started: Any) -> None:
    while True:
        save(path, {"rows": np.full(20_000, os.getpid())})
        started.set()


def test_two_writers_of_one_name_disturb_no_reader(tmp_path: Path) -> None:
    path, events = tmp_path / "a", [FORK.Event(), FORK.Event()]
    with forked(save_forever, path, events[0]), forked(save_forever, path, events[1]):
        assert all(event.wait(HANGS) for event in events)
        for _ in range(200):
            rows = load(path)["rows"]
            assert (rows == rows[0]).all()
    assert [event.is_set() for event in events] == [True, True]


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path) -> None:
    def die(path: Path) -> None:
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        save(path, {"step": 0})

    path = tmp_path / "a"
    for _ in range(3):
        with forked(die, path) as child:
            child.join(HANGS)
        assert [name.endswith(".tmp") for name in os.listdir(tmp_path)] == [True]
    assert load(save(path, {"step": 1})) == {"step": 1}
    assert os.listdir(tmp_path) == ["a"]


def test_a_temporary_file_in_use_is_not_a_leftover(tmp_path: Path) -> None:
    ready = FORK.Event()

    def pause(path: Path) -> None:
        os.fsync = lambda _: (ready.set(), time.sleep(HANGS))
        save(path, {"step": 0})

    with forked(pause, tmp_path / "a"):
        assert ready.wait(HANGS)
        save(tmp_path / "a", {"step": 1})
        assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("planted", [".a.tmp", ".a.0123456789abcdef.tmp"])
def test_a_planted_link_is_not_followed(
    planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda _: "0123456789abcdef")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / planted).symlink_to(victim)
    with contextlib.suppress(CheckpointError):  # a name that is taken is refused
        save(tmp_path / "a", {"step": 1})
    assert victim.read_text() == "precious"


def test_files_have_the_mode_that_open_gives_them(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    files.write(tmp_path / "ours", b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_device_is_written_to_and_stays_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.write(tmp_path / "pipe", b"picture")
    assert os.read(reader, 100) == b"picture" and (tmp_path / "pipe").is_fifo()
    os.close(reader)


def hold(directory: Path, held: Any) -> None:
    with files.only_writer(directory, "out"):
        held.set()
        time.sleep(HANGS)


def test_a_run_is_trained_by_one_process_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "run", 64) == 0
    capsys.readouterr()
    held = FORK.Event()
    with forked(hold, tmp_path / "run", held):
        assert held.wait(HANGS)
        words = ["resume", str(tmp_path / "run"), "--steps", "64"]
        refused(words, "RUN: expected a run that no other process trains, got", capsys)
        assert read_progress(tmp_path / "run")["update"] == [1.0]
    assert main(words) == 0  # the other one was killed
    assert read_progress(tmp_path / "run")["update"] == [1.0, 2.0]


@pytest.mark.parametrize("running", [True, False])
def test_two_new_runs_do_not_share_a_directory(
    running: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both find it empty; the other one's run is under way, or has already ended."""
    monkeypatch.setattr(commands, "refuse_used", lambda out: None)
    if not running:
        assert train(tmp_path, 64) == 0
    before, held = sorted(os.listdir(tmp_path)), FORK.Event()
    with forked(hold, tmp_path, held) if running else contextlib.nullcontext():
        assert not running or held.wait(HANGS)
        capsys.readouterr()
        message = "trpo-fast: out: expected a " + (
            "run that no" if running else "directory without"
        )
        assert train(tmp_path, 64) == 1 and capsys.readouterr().err.startswith(message)
    assert sorted(set(os.listdir(tmp_path)) - {files.LOCK}) == sorted(set(before) - {files.LOCK})


def test_a_forked_child_does_not_keep_the_lock_of_a_killed_process(tmp_path: Path) -> None:
    alive, names = FORK.Event(), FORK.SimpleQueue()

    def fork_under_lock() -> None:
        with files.only_writer(tmp_path, "out"):
            if os.fork() == 0:
                names.put(os.getpid())
                alive.set()
            time.sleep(HANGS)

    with forked(fork_under_lock):
        assert alive.wait(HANGS)
    orphan = names.get()
    with files.only_writer(tmp_path, "out"):
        os.kill(orphan, signal.SIGKILL)  # it lived on


@contextlib.contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    resource = pytest.importorskip("resource")
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_the_goal_of_a_run_survives_a_full_disk(tmp_path: Path) -> None:
    runs.write_options(tmp_path, 512, RunOptions(target_return=400.0))
    with no_file_beyond(10), pytest.raises(OSError, match=r"File too large: .*run\.toml"):
        runs.write_options(tmp_path, 1024, RunOptions())
    assert runs.read_options(tmp_path)[0] == 512
    assert runs.read_options(tmp_path)[1]["target_return"] == 400.0
    assert os.listdir(tmp_path) == [OPTIONS]


DAMAGED = {
    "": "steps: expected a line steps = value, got none",
    "steps = 512\n": "target_return: expected a line target_return = value, got none",
    "steps = 51": "target_return: expected a line",
    "steps = ": "run: expected TOML in",
    "[steps]\na = 1\n": "run: expected lines of name = value in",
    "steps = 64\ntarget_return = 'no'\n": "target_return: expected a finite number",
    "\0": "run: expected TOML in",
    None: "run.toml with the run's goal in",
}


@pytest.mark.parametrize("text", DAMAGED, ids=repr)
def test_damaged_options_of_a_run_are_no_goal(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, 64) == 0
    capsys.readouterr()
    (tmp_path / OPTIONS).unlink()
    if text is not None:
        (tmp_path / OPTIONS).write_text(text)
    refused(["resume", str(tmp_path)], DAMAGED[text], capsys)
    assert read_progress(tmp_path)["update"] == [1.0]
    if text is None:  # a checkpoint that TRPO.save made
        assert main(["resume", str(tmp_path), "--steps", "64"]) == 0
        assert toml.read(tmp_path / OPTIONS)["steps"] == 128


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_beside_a_checkpoint_leaves_no_hole_in_a_log(after: bool, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    whole, out = tmp_path / "whole", tmp_path / "run"

    def die() -> None:
        write = checkpoint.save

        def once(path: Path, tree: dict[str, Any]) -> None:
            fatal = tree["counters"][1] == 3
            if after or not fatal:
                write(path, tree)
            if fatal:
                os.kill(os.getpid(), signal.SIGKILL)

        checkpoint.save = once
        train(out, 320, "--checkpoint-every", "1", "--tensorboard")

    with forked(die) as child:
        child.join(HANGS)
    assert load(out / CHECKPOINT)["counters"][1] == (3 if after else 2)
    assert main(["resume", str(out)]) == 0 and train(whole, 320) == 0
    for name in ("update", "kl", "return"):
        found, wanted = (read_progress(run)[name] for run in (out, whole))
        assert np.array_equal(found, wanted, equal_nan=True)
    lines = (out / "progress.jsonl").read_text().splitlines()
    assert {json.loads(line)["update"] for line in lines} == {1, 2, 3, 4, 5}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out)).Reload().Scalars("train/kl")
    assert {event.step for event in events} == {64, 128, 192, 256, 320}


NESTED = [
    "[[x]]\na = 1\n",
    "x = " + "[" * 20_000,
    "hidden = [[8]]\n",
    "a.b.c = 1\n",
    "x = 1979-05-27\n",
]


@pytest.mark.parametrize("text", NESTED, ids=lambda text: text[:16])
def test_toml_that_is_not_flat_is_one_line(
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text(text)
    refused(["train", "CartPole-v1", "--config", "c.toml"], "config: expected ", capsys)


def test_a_run_is_loaded_by_its_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "run", 64) == 0
    capsys.readouterr()
    assert TRPO.load(tmp_path / "run").steps == 64
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"got .*empty, a directory without checkpoint\.safe"):
        TRPO.load(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="which is no file"):
        load("/dev/null")
    refused(["eval", str(tmp_path / "empty")], "does not exist", capsys)
