"""benchmarks/side_by_side.py: several programs at the same time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "side_by_side.py"


def run(*programs: str) -> subprocess.CompletedProcess:
    words = [word for program in programs for word in ("---", "-c", program)]
    return subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True)


def test_each_runs_beside_the_others_and_says_its_words(tmp_path):
    waits = (
        "import pathlib, time\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "(here / '{}').touch()\n"
        "while not (here / '{}').exists(): time.sleep(0.01)\n"
        "print('met {}')"
    )
    done = run(waits.format("a", "b", "b"), waits.format("b", "a", "a"))
    assert done.returncode == 0 and "met a" in done.stdout and "met b" in done.stdout


def test_one_that_fails_is_named_and_the_others_end():
    done = run("print('fine')", "raise SystemExit('why')")
    assert done.returncode == 1
    assert "fine" in done.stdout and "why" in done.stdout and "exit status 1" in done.stdout
