"""The pytest-benchmark front ends run: the smallest case through each of them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from trpo_fast.bench import cli as bench_cli

ROOT = Path(__file__).resolve().parents[1]


def test_front_ends_time_the_smallest_case():
    suites = ("fvp", "cg", "update")
    files = [f"benchmarks/bench_{suite}.py" for suite in suites]
    command = "-m pytest -q -p no:cacheprovider --benchmark-enable --benchmark-only".split()
    options = "--bench-cases tiny --bench-contenders reference gauss_newton sb3_replica"
    # Under xdist the worker's variables would disable the inner session's benchmarks.
    environment = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    result = subprocess.run(
        [sys.executable, *command, *files, *options.split()],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "skipped" not in result.stdout
    for suite in suites:
        assert f"test_{suite}[tiny-reference-fp32]" in result.stdout


def test_tables_come_from_the_json(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("plot", ROOT / "benchmarks" / "plot.py")
    plot = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plot)
    assert plot.main(["--check"]) == 0, "run python benchmarks/plot.py"
    arguments = "cg --case tiny --seconds 0.01 --backend reference --opponents gauss_newton"
    assert bench_cli.main([*arguments.split(), "--json", str(tmp_path)]) == 0
    monkeypatch.setattr(plot, "RESULTS", tmp_path)
    text = plot.rewrite("a\n<!-- results:begin -->\nold\n<!-- results:end -->\nb\n")
    assert "| tiny, N = 64 | **reference** |" in text and "gauss_newton" in text
    assert "old" not in text and text.endswith("<!-- results:end -->\nb\n")
    assert plot.rewrite(text) == text
    plot.main(["--png", str(tmp_path / "cg.png")])
    assert (tmp_path / "cg.png").stat().st_size > 1000
