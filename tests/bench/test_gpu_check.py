"""benchmarks/gpu_check.py: its steps, what it says of one that fails, hangs or cannot run."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def gpu_check():
    path = ROOT / "benchmarks" / "gpu_check.py"
    spec = importlib.util.spec_from_file_location("gpu_check", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    return module


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("command", "limit", "skip", "status", "words"),
    [
        (python("print('fine')"), 60, None, "passed", "fine"),
        (python("print('why'); exit(3)"), 60, None, "failed", "why"),
        (python("import time; time.sleep(60)"), 1, None, "out of time", ""),
        (["/no/such/program"], 60, None, "failed", "No such file"),
        (["/no/such/program"], 60, "no device", "skipped", "no device"),
    ],
)
def test_what_becomes_of_a_step(gpu_check, command, limit, skip, status, words):
    result = gpu_check.run(gpu_check.Step("step", command, limit, skip), left=100)
    assert result.status == status and words in result.said


@pytest.mark.parametrize(
    ("code", "said", "status"),
    [
        (0, "", "passed"),
        (1, "========= Error: Device not supported. Please refer to ...", "skipped"),
        (9, "========= Device not supported\n========= ERROR SUMMARY: 1 error", "skipped"),
        (9, "========= Invalid __global__ write of size 4 bytes", "failed"),
        (1, "assert False", "failed"),
    ],
)
def test_a_sanitizer_that_the_machine_refuses_is_skipped(gpu_check, code, said, status):
    step = gpu_check.Step("compute-sanitizer", [])
    assert gpu_check._status(step, code, said) == status
    assert gpu_check._status(gpu_check.Step("tests", []), code, said) != "skipped"


def row(case: str, precision: str, **changed) -> dict[str, object]:
    numbers = {"backend": "cuda", "median_us": 50.0, "rel_err": 1e-6}
    return {"case": case, "precision": precision, **numbers, **changed}


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({}, "passed", "fine"),
        ({"backend": "reference"}, "failed", "no rows of the kernels for C2 fp16x3"),
        ({"rel_err": float("inf")}, "failed", "no rows of the kernels for C2 fp16x3"),
    ],
)
def test_a_suite_without_the_kernels_rows_has_failed(gpu_check, tmp_path, changed, status, words):
    wanted = [(c, p) for c in gpu_check.CASES for p in gpu_check.PRECISIONS]
    rows = [row(c, p, **(changed if (c, p) == ("C2", "fp16x3") else {})) for c, p in wanted]
    (tmp_path / "machine").mkdir()
    (tmp_path / "machine" / "cg.json").write_text(json.dumps({"rows": rows}))
    step = gpu_check.Step("bench cg", python("print('fine')"), rows=("cg", tmp_path))
    result = gpu_check.run(step, left=100)
    assert result.status == status and words in result.said


def test_steps_fit_into_ten_minutes_and_name_what_exists(gpu_check, tmp_path):
    steps = gpu_check.steps(True, tmp_path, tmp_path)
    assert len({step.name for step in steps}) == len(steps)
    assert all(step.limit <= 300 for step in steps)
    skipped = {step.name for step in steps if step.skip}
    assert {"emulator against hardware", "compute-sanitizer", "barriers and sums"} <= skipped
    assert {f"bench cg {case}, compiled" for case in gpu_check.CASES} <= skipped
    assert [step.name for step in steps][-3:] == [s.name for s in steps if "compiled" in s.name]
    for step in steps:
        for word in step.command:
            assert not word.startswith(("tests/", "benchmarks/")) or (ROOT / word).exists()


def test_a_device_has_one_folder_for_its_report_and_its_suites(gpu_check, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_check.torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert gpu_check.machine_folder(tmp_path) == tmp_path / "h200"
    compiled = gpu_check.steps(True, tmp_path, tmp_path)[-1].command
    assert compiled[-1] == str(tmp_path / "h200" / "cg_compiled.json")


def test_needs_a_device_unless_it_rehearses():
    if torch.cuda.is_available():
        pytest.skip("there is a device")
    script = [str(ROOT / "benchmarks" / "gpu_check.sh")]
    env = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(script, capture_output=True, text=True, env=env)
    assert done.returncode == 2 and "no CUDA device" in done.stderr
