"""benchmarks/gpu_check.py: its steps, what it says of one that fails, hangs or cannot run."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def gpu_check():
    sys.path.insert(0, str(ROOT / "benchmarks"))
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
    precisions = ("fp32", "fp16x3")
    wanted = [(c, p) for c in ("C1", "C2") for p in precisions]
    rows = [row(c, p, **(changed if (c, p) == ("C2", "fp16x3") else {})) for c, p in wanted]
    path = tmp_path / "cg.json"
    path.write_text(json.dumps({"rows": rows}))
    step = gpu_check.Step(
        "bench cg", python("print('fine')"), rows=(path, ("C1", "C2"), precisions)
    )
    result = gpu_check.run(step, left=100)
    assert result.status == status and words in result.said


@pytest.fixture
def place(gpu_check, tmp_path):
    return gpu_check.Place(False, tmp_path, tmp_path)


@pytest.fixture
def h200(gpu_check, monkeypatch):
    monkeypatch.setattr(gpu_check.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_check.torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(gpu_check.torch.cuda, "get_device_capability", lambda: (9, 0))


@pytest.mark.parametrize("plan", ["first", "full"])
def test_a_plan_names_what_exists(gpu_check, tmp_path, plan):
    steps = gpu_check.steps(plan, gpu_check.Place(True, tmp_path, tmp_path))
    assert len({step.name for step in steps}) == len(steps)
    assert all(step.limit <= gpu_check.SECONDS[plan] for step in steps)
    assert all(step.skip for step in steps if "hardware" in step.name or "ncu" in step.name)
    for step in steps:
        for word in step.command:
            assert not word.startswith(("tests/", "benchmarks/")) or (ROOT / word).exists()


def test_the_first_minutes_are_what_tells_most(gpu_check, place, h200):
    """C1, C2 and C4 replayed, against the graphed opponent, each into the file by itself."""
    steps = gpu_check.steps("first", place)
    assert sum(step.limit for step in steps[1:]) <= gpu_check.SECONDS["first"]
    names = [step.name for step in steps]
    assert names[:2] == ["build", "emulator against hardware"]
    assert names[2:6] == ["bench cg C1", "bench cg C2", "bench cg C4", "wide nets"]
    for step in steps[2:5]:
        words = " ".join(step.command)
        assert "--backend cuda_graph cuda" in words and "--device cuda" in words
        assert "--opponents gauss_newton_graph --device" in words
        assert f"--append --json {place.results / 'cg.json'}" in words
    full = [step.name for step in gpu_check.steps("full", place)]
    assert {"ncu, fp32", "ncu, fp16x3", *(f"bench cg {c}" for c in ("C3", "C4", "C5"))} <= set(full)
    assert all("compiled" in name for name in full[-3:])


def test_what_is_timed_is_what_ships(gpu_check, place, h200, monkeypatch, tmp_path):
    """No architecture is asked for, and objects that were built before are taken."""
    monkeypatch.setattr(sys.modules["gpu_steps"], "ROOT", tmp_path)
    assert gpu_check.steps("first", place)[0].env == {"TRPO_FAST_CUDA": "1"}
    (tmp_path / "build" / "cuda").mkdir(parents=True)
    (tmp_path / "build" / "cuda" / "about.json").write_text("{}")
    assert gpu_check.steps("first", place)[0].env == {"TRPO_FAST_CUDA": "prebuilt"}


def test_a_device_has_one_folder_for_its_report_and_its_suites(gpu_check, tmp_path, h200):
    assert gpu_check.machine_folder(tmp_path) == tmp_path / "h200"


def test_the_report_is_written_after_every_step(gpu_check, tmp_path, monkeypatch):
    report = tmp_path / "report.json"
    seen = f"import json; print(len(json.load(open({str(report)!r}))['steps']), 'before')"
    made = [gpu_check.Step(f"step {i}", python(seen)) for i in range(2)]
    monkeypatch.setattr(gpu_check, "steps", lambda plan, place: made)
    assert not gpu_check.check("first", gpu_check.Place(True, tmp_path, tmp_path), 60, report)
    first, second = json.loads(report.read_text())["steps"]  # the first finds no report yet
    assert first["status"] == "failed" and second["said"] == "1 before\n"


def test_counters_that_are_the_administrators_are_skipped(gpu_check):
    step, said = gpu_check.Step("ncu, fp32", []), "==ERROR== ERR_NVGPUCTRPERM - ..."
    assert gpu_check._status(step, 1, said) == "skipped"
    assert gpu_check._status(step, 1, "no such kernel") == "failed"


def test_the_profilers_program_solves(monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("the emulator is for machines without a device")
    monkeypatch.setenv("TRPO_FAST_EMULATE", "1")
    words = ["one_solve.py", "tiny", "fp16x3", "--device", "cpu", "--rows", "40"]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(ROOT / "benchmarks" / "one_solve.py"), run_name="__main__")
    assert re.fullmatch(r"tiny fp16x3: \|x\| = [0-9.e-]+\n", capsys.readouterr().out)


def test_needs_a_device_unless_it_rehearses():
    if torch.cuda.is_available():
        pytest.skip("there is a device")
    script = [str(ROOT / "benchmarks" / "gpu_check.sh"), "first"]
    env = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(script, capture_output=True, text=True, env=env)
    assert done.returncode == 2 and "no CUDA device" in done.stderr
