"""The pytest-benchmark front ends run: the smallest case through each of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("suite", ("fvp", "cg", "update"))
def test_front_end_times_the_smallest_case(suite, tmp_path):
    command = f"-m pytest benchmarks/bench_{suite}.py -q -p no:cacheprovider --benchmark-enable"
    options = "--bench-cases tiny --bench-contenders reference gauss_newton sb3_replica"
    # Under xdist the worker's variables would disable the inner session's benchmarks.
    environment = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    result = subprocess.run(
        [sys.executable, *command.split(), "--benchmark-only", *options.split()],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "reference-fp32" in result.stdout and "skipped" not in result.stdout
