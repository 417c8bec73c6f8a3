"""The command line against what nobody should type, and against streams, files and machines that
are not as they should be: one sentence and an exit status, never a traceback.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")
pytest.importorskip("tyro")

from limits import HANGS
from small_runs import refused, train

from trpo_fast.cli import commands, failures
from trpo_fast.cli import main as cli
from trpo_fast.cli.main import main

pytestmark = pytest.mark.attack

ROOT = Path(__file__).resolve().parents[2]
CLI = f"{sys.executable} -m trpo_fast.cli.main"

INCOMPLETE = [
    ("train", "ENV: expected an environment, as in trpo-fast train CartPole-v1, got nothing"),
    ("train --steps 64", "ENV: expected an environment, as in trpo-fast train CartPole-v1, got n"),
    ("train --config empty.toml", "ENV: expected an environment"),
    ("eval", "RUN: expected the directory of a run, as in trpo-fast eval runs/NAME, got nothing"),
    ("resume", "RUN: expected the directory of a run, as in trpo-fast resume runs/NAME, got no"),
    ("plot", "RUN: expected the directories of one or more runs, as in trpo-fast plot RUN"),
    ("plot --png a", "expected trpo-fast plot RUN... [--out curves.png], got --png"),
    ("trian CartPole-v1", "got 'trian'; did you mean train?"),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("words", "message"), INCOMPLETE)
def test_an_incomplete_command_is_told_what_it_lacks(words: str, message: str, capsys) -> None:
    Path("empty.toml").write_text("gamma = 0.9\n")
    refused(words.split(), message, capsys, status=2)
    assert [path.name for path in Path().iterdir()] == ["empty.toml"]


@pytest.mark.parametrize("words", [["train", ""], ["train", "--env", ""], ["train", "--env="]])
def test_an_empty_name_is_no_environment(words: list[str], capsys) -> None:
    refused([*words, "--steps", "64"], "train CartPole-v1, got ''", capsys, status=2)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("command", ["eval", "resume"])
def test_a_directory_without_a_run_is_told_from_one_that_is_not_there(command, capsys) -> None:
    Path("made").mkdir()
    refused([command, "made"], "got made, where checkpoint.safetensors does not exist", capsys)
    refused([command, "nowhere"], "got nowhere, which does not exist", capsys)
    refused([command, ""], "as in trpo-fast " + command + " runs/NAME, got ''", capsys, status=2)


def test_eval_takes_a_checkpoint_under_any_name(capsys) -> None:
    assert train(Path("run"), 64) == 0
    Path("run/checkpoint.safetensors").rename("best.safetensors")
    assert main(["eval", "best.safetensors", "--episodes", "1"]) == 0
    assert "CartPole-v1 after 64 steps" in capsys.readouterr().out


@pytest.mark.parametrize("device", ["meta", "nosuch", "cuda:77", ""])
def test_a_device_without_numbers_is_refused(device: str, capsys) -> None:
    refused(["train", "CartPole-v1", "--device", device], "device: expected one that", capsys)
    assert train(Path("run"), 64) == 0
    capsys.readouterr()
    for command in ("eval", "resume"):
        refused([command, "run", "--device", device], f"works here, got {device!r}", capsys)


@pytest.mark.parametrize("option", ["episodes", "seed"])
@pytest.mark.parametrize("value", ["-1", "99999999999999999999"])
def test_counts_of_an_evaluation_are_checked(option: str, value: str, capsys) -> None:
    assert train(Path("run"), 64) == 0
    capsys.readouterr()
    refused(["eval", "run", f"--{option}", value], f"{option}: expected an integer", capsys)


FAULTS = {
    "memory": (MemoryError(), "trpo-fast: out of memory\n"),
    "torch's memory": (RuntimeError("X: can't allocate memory: 9 bytes\nframe"), "9 bytes\n"),
    "disk": (OSError(28, "No space left on device", "a/b"), "a/b: No space left on device\n"),
    "pipe": (BrokenPipeError(32, "Broken pipe"), "trpo-fast: Broken pipe\n"),
    "install": (ImportError("eval needs x"), "trpo-fast: eval needs x\n"),
}


def failing(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    def fail(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "find", lambda name: fail)
    return main(["train", "CartPole-v1"])


@pytest.mark.parametrize(("error", "words"), FAULTS.values(), ids=FAULTS)
def test_what_the_machine_refuses_is_one_line(error, words: str, monkeypatch, capsys) -> None:
    assert failing(error, monkeypatch) == 1
    said = capsys.readouterr().err
    assert said.endswith(words) and said.count("\n") == 1
    monkeypatch.setenv("TRPO_FAST_DEBUG", "1")
    assert failing(error, monkeypatch) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and said.endswith(words)


def test_a_mistake_of_the_package_keeps_its_traceback(monkeypatch, capsys) -> None:
    assert failing(KeyError("surprise"), monkeypatch) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and "KeyError: 'surprise'" in said
    assert said.splitlines()[-1].startswith("trpo-fast: unexpected KeyError: unless your env")
    assert "please report it" in said


def test_interrupted_anywhere_is_one_line(monkeypatch, capsys) -> None:
    assert failing(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr().err == "trpo-fast: interrupted\n"


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which $CLI is the command; PIPESTATUS's first is the exit status."""
    script = f"set -o pipefail; CLI='{CLI}'; {line}"
    # Buffered as a user's are: what fails only when the interpreter ends must be seen here.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=environment, timeout=HANGS
    )


STREAMS = {
    "a reader that is gone": ("$CLI doctor | true", {0, failures.READER_GONE}, ""),
    "help that nobody reads": ("$CLI train --help | true", {0, failures.READER_GONE}, ""),
    "usage that nobody reads": ("$CLI --help | true", {0, failures.READER_GONE}, ""),
    "a full disk": ("$CLI doctor > /dev/full", {1}, "trpo-fast: No space left on device\n"),
    "no output": ("$CLI doctor >&-", {0}, ""),
    "no error stream": ("$CLI train Nowhere-v1 2>&-", {1}, ""),
    "no streams": ("$CLI train Nowhere-v1 <&- >&- 2>&-", {1}, ""),
}


@pytest.mark.parametrize(("line", "status", "words"), STREAMS.values(), ids=STREAMS)
def test_streams_that_are_closed_or_full(line: str, status: set[int], words: str) -> None:
    done = shell(line)
    assert (done.returncode in status, done.stderr) == (True, words)


def test_a_run_without_an_error_stream_trains_and_writes_its_files_only() -> None:
    flags = "--num-envs 2 --rows-per-update 64 --hidden 8 --critic-hidden 8 --steps 128"
    done = shell(f"$CLI train CartPole-v1 {flags} --out run 2>&-")
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    rows = Path("run/progress.csv").read_text().splitlines()
    assert len(rows) == 3 and len({row.count(",") for row in rows}) == 1
    assert main(["eval", "run", "--episodes", "1"]) == 0


def test_a_file_does_not_get_what_was_meant_for_a_closed_stream() -> None:
    """Without a stream 2 the next file that is opened would be number 2."""
    code = (
        "import os\nfrom trpo_fast.cli.failures import guarded\n"
        "def work():\n    with open('kept', 'w') as file:\n"
        "        os.write(2, b'noise')\n        file.write('text')\n    return 0\n"
        "raise SystemExit(guarded(work))"
    )
    Path("code.py").write_text(code)
    done = shell(f"{sys.executable} code.py 2>&-")
    assert (done.returncode, Path("kept").read_text()) == (0, "text")


def test_the_help_reads_from_the_top(capsys) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "trust region policy optimisation" in text and "for example:" in text
    assert main(["help"]) == 0 and capsys.readouterr().out == text
    assert max(map(len, text.splitlines())) <= 80
    examples = [line.split()[1] for line in text.splitlines() if line.startswith("  trpo-fast")]
    assert examples and set(examples) <= set(cli.COMMANDS)


SERVED: dict[str, Callable[..., int]] = {
    "train": commands.train,
    "eval": commands.evaluate,
    "resume": commands.resume,
    "plot": commands.plot,
}


@pytest.mark.parametrize("name", SERVED)
def test_help_of_a_command_needs_nothing(name: str, capsys) -> None:
    assert SERVED[name] is cli.find(name)
    try:
        status = SERVED[name](["--help"])
    except SystemExit as end:
        status = end.code or 0  # type: ignore[assignment]
    assert status == 0 and f"usage: trpo-fast {name}" in capsys.readouterr().out


def test_help_of_train_shows_the_preset_of_the_environment_that_is_named(capsys) -> None:
    seen = {}
    for words in ("train --help", "train Swimmer-v5 --help", "train Nowhere-v1 --help"):
        with pytest.raises(SystemExit):
            main(words.split())
        seen[words] = " ".join(capsys.readouterr().out.split())
    assert "usage: trpo-fast train ENV [--config FILE]" in seen["train --help"]
    assert "--config FILE reads settings from a TOML file" in seen["train --help"]
    assert "Train on ENV: a gymnasium id such as CartPole-v1" in seen["train --help"]
    assert (
        "Train on Swimmer-v5. Defaults below are those of its preset: --gamma 0.999"
        in seen["train Swimmer-v5 --help"]
    )
    assert "those of its preset: nothing, it has none" in seen["train Nowhere-v1 --help"]
