"""What ``benchmarks/libraries.py`` prints of a library."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def printed(
    library: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> dict[str, float]:
    """Every run's ratio to the first, on a small problem."""
    if not (BENCHMARKS / "libraries.py").exists():
        pytest.skip("needs a checkout")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("libraries")
    capsys.readouterr()
    script.show("tiny", script.RUNS[library](3, 2, 128, [8]), 1)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tiny: ")]
    found = [re.fullmatch(r"tiny: (.*): ([\d.]+) ms, ([\d.]+)x", line) for line in lines]
    assert all(found) and all(float(each[2]) > 0 for each in found if each)
    return {each[1]: float(each[3]) for each in found if each}
