"""Builds, tests, measures and writes it all down, on a machine with a GPU.

    benchmarks/gpu_check.sh [--rehearse] [--seconds 570] [--json FILE]

Steps, each with a time limit: environment, build for this GPU alone, CUDA tests, the emulator's
model of the hardware against the hardware, compute-sanitizer, barriers and sums, the suites `cg`
and `update` against the opponents, and `cg` case by case against those that compile for long
(cg_compiled.json). Results go to results/MACHINE. A step that cannot run here is skipped by name
with the reason.
Needs torch, pybind11, ninja, pytest and pytest-benchmark, a checkout and no package registry.
``--rehearse`` runs the same steps on the host: emulated kernels, few rows, no timing worth keeping.
Exit status 1 if a step failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from trpo_fast.bench.report import machine_name  # noqa: E402 (pure Python: there before the build)

TAIL = 4000  # characters of a step's output that the report keeps
CASES = ("C1", "C2", "cartpole")
QUICK = ("sb3", "sb3_replica", "double_backward", "gauss_newton", "gauss_newton_graph")
COMPILED = ("gauss_newton_graph", "gauss_newton_compile", "func_compile", "jax_jit")
PRECISIONS = ("fp32", "fp16x3")  # of the kernels: a suite without a row of each has failed


@dataclass
class Step:
    """One command. ``skip`` is the reason why it cannot run here, if there is one."""

    name: str
    command: list[str]
    limit: float = 120.0
    skip: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    rows: tuple[str, Path] | None = None  # the suite whose rows it must leave, and where


@dataclass
class Result:
    name: str
    status: str  # passed, failed, skipped, out of time
    seconds: float
    said: str


def environment() -> dict[str, object]:
    """What the numbers depend on."""
    commit = _said(["git", "rev-parse", "HEAD"])
    dirty = bool(_said(["git", "status", "--porcelain", "--untracked-files=no"]))
    query = "--query-gpu=name,driver_version,clocks.max.sm,power.limit,memory.total"
    return {
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "nvcc": _said([os.environ.get("NVCC", "nvcc"), "--version"]).splitlines()[-1:],
        "gpu": _said(["nvidia-smi", query, "--format=csv,noheader"]) or None,
        "host": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }


def _said(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return done.stdout.strip() if done.returncode == 0 else ""


def architecture() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"{major}{minor}"


def machine_folder(results: Path) -> Path:
    """Where the suites leave what they measure on this device."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no-device"
    return results / machine_name({"gpu": name})


def steps(rehearse: bool, results: Path, scratch: Path) -> list[Step]:
    python = sys.executable
    missing = "no device: this is a rehearsal" if rehearse else None
    arch = "90" if rehearse else architecture()
    emulate = {"TRPO_FAST_EMULATE": "1"} if rehearse else {}
    build = {"TRPO_FAST_CUDA": "0" if rehearse else "1", "TRPO_FAST_CUDA_ARCHS": arch}
    small = ["tests/cuda/test_cuda_update.py", "-k", "learning_through"]
    tests = ["tests/cuda/test_cuda_update.py"] if rehearse else _cuda_tests()
    sanitizer = shutil.which("compute-sanitizer")
    nvcc = shutil.which(os.environ.get("NVCC", "nvcc"))
    primitives = str(scratch / "primitives")
    includes = ["-Icsrc"]
    compiler = [nvcc or "nvcc", "-std=c++20", "-O3", f"-arch=sm_{arch}", *includes]
    return [
        Step("build", [python, "setup.py", "build_ext", "--inplace"], 240, env=build),
        Step("tests", [python, "-m", "pytest", "-q", *tests], 150, env=emulate),
        Step(
            "emulator against hardware",
            [python, "-m", "tests.emulation.hardware_check", "--arch", f"sm_{arch}"],
            60,
            missing,
        ),
        Step(
            "compute-sanitizer",
            [sanitizer or "", "--error-exitcode", "9", python, "-m", "pytest", "-q", *small],
            120,
            missing or (None if sanitizer else "compute-sanitizer is not installed"),
        ),
        Step(
            "barriers and sums: compile",
            [*compiler, "benchmarks/primitives.cu", "-o", primitives],
            90,
            None if nvcc else "nvcc is not installed",
        ),
        Step("barriers and sums", [primitives], 60, missing),
        *[_suite(python, suite, rehearse, results, emulate) for suite in ("cg", "update")],
        *[_compiled(python, case, missing, results) for case in CASES],
    ]


def _cuda_tests() -> list[str]:
    found = sorted((ROOT / "tests" / "cuda").glob("test_cuda_*.py"))
    return [str(path.relative_to(ROOT)) for path in found]


def _suite(python: str, suite: str, rehearse: bool, results: Path, env: dict[str, str]) -> Step:
    command = [python, "-m", "trpo_fast.cli.main", "bench", suite, "--json", str(results)]
    command += ["--case", *CASES]
    if rehearse:
        fast = ["--rows", "40", "--seconds", "0.05", "--turns", "1", "--iterations", "2"]
        some = ["--backend", "cuda", "reference", "--opponents", "sb3_replica", "gauss_newton"]
        command += ["--device", "cpu", *fast, *some]
    else:
        command += ["--device", "cuda", "--seconds", "1"]
        command += ["--opponents", *QUICK] if suite == "cg" else []
    return Step(f"bench {suite}", command, 120, env=env, rows=(suite, results))


def _compiled(python: str, case: str, missing: str | None, results: Path) -> Step:
    """A case against the opponents that compile for long, into a file of its own: last, so that
    nothing else is lost with the time they take.
    """
    command = [
        python,
        "-m",
        "trpo_fast.cli.main",
        "bench",
        "cg",
        "--case",
        case,
        "--device",
        "cuda",
    ]
    command += ["--seconds", "0.5", "--backend", "cuda", "--opponents", *COMPILED]
    command += ["--append", "--json", str(machine_folder(results) / "cg_compiled.json")]
    env = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # otherwise JAX takes most of the memory
    return Step(f"bench cg {case}, compiled", command, 110, missing, env)


def missing_rows(suite: str, results: Path) -> list[str]:
    """Case and precision of every row that the kernels should have left and did not, or left
    without a time or an error.
    """
    found = set()
    for path in results.glob(f"*/{suite}.json"):
        for row in json.loads(path.read_text())["rows"]:
            if row["backend"] == "cuda" and row["median_us"] > 0 and row["rel_err"] < 1e-3:
                found.add(f"{row['case']} {row['precision']}")
    return [f"{c} {p}" for c in CASES for p in PRECISIONS if f"{c} {p}" not in found]


def run(step: Step, left: float) -> Result:
    """One step within its limit and the time left."""
    if step.skip:
        return Result(step.name, "skipped", 0.0, step.skip)
    if left < 5:
        return Result(step.name, "skipped", 0.0, "no time left")
    start = time.monotonic()
    paths = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    env = {**os.environ, "PYTHONPATH": paths, **step.env}
    try:
        done = subprocess.run(
            step.command,
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=min(step.limit, left),
        )
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode(errors="replace") if error.stdout else ""
        return Result(step.name, "out of time", time.monotonic() - start, said[-TAIL:])
    except OSError as error:
        return Result(step.name, "failed", time.monotonic() - start, str(error))
    status, said = _status(step, done.returncode, done.stdout), done.stdout[-TAIL:]
    if status == "passed" and step.rows and (missing := missing_rows(*step.rows)):
        status, said = "failed", f"{said}\nno rows of the kernels for {', '.join(missing)}"
    return Result(step.name, status, time.monotonic() - start, said)


def _status(step: Step, code: int, said: str) -> str:
    if step.name == "compute-sanitizer" and code != 0:
        refused = "not supported" in said or "insufficient permission" in said.lower()
        if "Device not supported" in said or (code != 9 and refused):
            return "skipped"  # the machine refuses it
    return "passed" if code == 0 else "failed"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="the emulator instead of a device")
    parser.add_argument("--seconds", type=float, default=570.0, help="time for all steps together")
    parser.add_argument(
        "--json", type=Path, help="the report (default: beside the suites' results)"
    )
    arguments = parser.parse_args()
    if not arguments.rehearse and not torch.cuda.is_available():
        print("no CUDA device that torch can use; --rehearse runs on the host", file=sys.stderr)
        return 2
    end = time.monotonic() + arguments.seconds
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) if arguments.rehearse else ROOT / "benchmarks" / "results"
        report = {"rehearsal": arguments.rehearse, "environment": environment(), "steps": []}
        failed = False
        for step in steps(arguments.rehearse, results, Path(scratch)):
            result = run(step, end - time.monotonic())
            print(f"{result.name}: {result.status} ({result.seconds:.0f} s)", flush=True)
            if result.status not in ("passed", "skipped"):
                print(result.said, flush=True)
                failed = True
            report["steps"].append(asdict(result))
    target = arguments.json
    if target is None and not arguments.rehearse:
        target = machine_folder(results) / "gpu_check.json"
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written: {target}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
