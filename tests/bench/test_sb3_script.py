"""``benchmarks/sb3.py`` times both classes on equal work."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sb3_contrib")
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    if not (BENCHMARKS / "sb3.py").exists():
        pytest.skip("needs a checkout")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("sb3")


@pytest.mark.filterwarnings("ignore")
def test_it_prints_both_times_and_their_ratio(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "SHAPES", {"small": (3, 2, 128, [8])})
    script.time_train(1)
    found = re.fullmatch(
        r"small: 128 rows, \[8\]: ours ([\d.]+) ms, sb3 ([\d.]+) ms, ([\d.]+)x\n",
        capsys.readouterr().out,
    )
    assert found and float(found[1]) > 0 and float(found[2]) > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_it_prints_steps_a_second_and_returns(
    script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    script.time_rollouts("CartPole-v1", 2, 1)
    script.final_returns("CartPole-v1", 1024, 2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all("train()" in line and "steps/s" in line for line in lines[:2])
    assert re.fullmatch(r"CartPole-v1, 2 envs: [\d.]+x", lines[2])
    assert all(re.search(r"(ours|sb3): [\d.]+ \+- [\d.]+ of \[", line) for line in lines[3:])
