"""The pytest-benchmark front ends run: the smallest case through each of them."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trpo_fast.bench import cli as bench_cli
from trpo_fast.bench.suites import GROUPS, SUITES

ROOT = Path(__file__).resolve().parents[2]
needs_results = pytest.mark.skipif(
    not (ROOT / "benchmarks" / "results").exists(), reason="recorded results need a checkout"
)


def test_front_ends_time_the_smallest_case(tmp_path):
    suites = tuple(GROUPS)
    files = [f"benchmarks/bench_{suite}.py" for suite in suites]
    command = "-m pytest -q -p no:cacheprovider --benchmark-enable --benchmark-only".split()
    options = "--bench-cases tiny --bench-contenders reference gauss_newton sb3_replica"
    # Under xdist the worker's variables would disable the inner session's benchmarks.
    environment = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    result = subprocess.run(
        [sys.executable, *command, *files, *options.split(), f"--benchmark-json={tmp_path / 'b'}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "skipped" not in result.stdout
    for suite, members in GROUPS.items():
        for member in members:
            name = "reference-fp32" if len(members) == 1 else f"{member}-reference-fp32"
            assert f"test_{suite}[tiny-{name}]" in result.stdout
    timed = json.loads((tmp_path / "b").read_text())["benchmarks"]
    groups = {benchmark["group"] for benchmark in timed}
    assert groups == {f"{suite} tiny" for suite in SUITES}  # one suite is not another's rival


def load(name, monkeypatch):
    """A program of benchmarks/, which is no package."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module(name)


@needs_results
def test_tables_come_from_the_json(tmp_path, monkeypatch):
    plot, fill = load("plot", monkeypatch), load("marked", monkeypatch).fill
    assert plot.main(["--check"]) == 0, "run python benchmarks/plot.py"
    arguments = "cg --case tiny --seconds 0.01 --backend reference --opponents gauss_newton"
    assert bench_cli.main([*arguments.split(), "--json", str(tmp_path)]) == 0
    monkeypatch.setattr(plot, "RESULTS", tmp_path)
    text = fill(
        "a\n<!-- results:begin -->\nold\n<!-- results:end -->\nb\n", "results", plot.tables()
    )
    assert "| tiny, N = 64 | **reference** |" in text and "gauss_newton" in text
    assert "| median | products/s | GF/s | of sgemm |" in text
    assert "old" not in text and text.endswith("<!-- results:end -->\nb\n")
    plot.main(["--png", str(tmp_path / "cg.png")])
    assert (tmp_path / "cg.png").stat().st_size > 1000


@needs_results
def test_the_page_has_the_tables_of_training_and_learning(monkeypatch):
    fill = load("marked", monkeypatch).fill
    page, results = (ROOT / "benchmarks" / "README.md").read_text(), ROOT / "benchmarks" / "results"
    (measured,) = re.findall(r"\(`results/(\S+/training\.json)`\)", page)
    rows = json.loads((results / measured).read_text())["rows"]
    assert fill(page, "training", load("training", monkeypatch).table(rows)) == page
    table = load("learning_table", monkeypatch).table(results / "learning" / "presets")
    assert fill(page, "learning", table + "\n") == page
    with pytest.raises(ValueError, match="markers nothing:begin/end, got 0"):
        fill(page, "nothing", "")
