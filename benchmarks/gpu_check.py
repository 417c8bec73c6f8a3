"""Builds, tests, measures and writes it all down, on a machine with a GPU.

    benchmarks/gpu_check.sh first|full [--rehearse] [--seconds 240] [--json FILE]

``first`` fits four minutes from a cold machine: build, the emulator's model of the hardware against
the hardware, C1, C2 and C4 by CUDA graph against the graphed Gauss-Newton, a few tests of wide nets
and those of split precision. ``full`` fits eight: the tests of CUDA, the suites `cg` and `update`
against every opponent, C3 to C5 in every precision and the tests of wide nets, two kernels under
ncu, barriers and sums, compute-sanitizer, and the opponents that compile for long
(cg_compiled.json).

Both time what the package ships: the code for every architecture that setup.py builds by default.
Where any Python has built it of these sources, only the bindings are compiled. Each step has a time
limit; one that cannot run is skipped by name with the reason. What is measured goes to
results/MACHINE, case by case, the report after every step.
Needs torch, pybind11, ninja, pytest and pytest-benchmark, a checkout and no package registry.
``--rehearse`` runs the same steps on the host: emulated kernels, few rows, no timing worth keeping.
Exit status 1 if a step failed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from gpu_steps import Place, Step, steps  # noqa: E402

from trpo_fast.bench.report import machine_name  # noqa: E402 (pure Python: there before the build)

TAIL = 4000  # characters of a step's output that the report keeps
HOST_PATIENCE = 4  # times the limits, for emulated kernels on a host that may be busy
SECONDS = {"first": 240.0, "full": 480.0}  # of the plans


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
        "triton": _version("triton"),
        "nvcc": _said([os.environ.get("NVCC", "nvcc"), "--version"]).splitlines()[-1:],
        "gpu": _said(["nvidia-smi", query, "--format=csv,noheader"]) or None,
        "host": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _said(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return done.stdout.strip() if done.returncode == 0 else ""


def machine_folder(results: Path) -> Path:
    """Where the suites leave what they measure on this device."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no-device"
    return results / machine_name({"gpu": name})


def missing_rows(path: Path, cases: tuple[str, ...], precisions: tuple[str, ...]) -> list[str]:
    """Case and precision of every row that the kernels should have left and did not, or left
    without a time or an error.
    """
    found = set()
    for row in json.loads(path.read_text())["rows"] if path.exists() else []:
        most = 0.1 if row["precision"] == "tf32" else 1e-3  # of eleven bits, after ten products
        if row["backend"] == "cuda" and row["median_us"] > 0 and row["rel_err"] < most:
            found.add(f"{row['case']} {row['precision']}")
    return [f"{c} {p}" for c in cases for p in precisions if f"{c} {p}" not in found]


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
    if step.name.startswith("ncu") and "ERR_NVGPUCTRPERM" in said:
        return "skipped"  # counters are the administrator's
    if step.name == "compute-sanitizer" and code != 0:
        refused = "not supported" in said or "insufficient permission" in said.lower()
        if "Device not supported" in said or (code != 9 and refused):
            return "skipped"  # the machine refuses it
    return "passed" if code == 0 else "failed"


def check(plan: str, place: Place, seconds: float, target: Path | None) -> bool:
    """Runs a plan; the report is written after every step. Whether no step failed."""
    end = time.monotonic() + seconds
    report = {"plan": plan, "rehearsal": place.rehearse, "environment": environment(), "steps": []}
    good = True
    for step in steps(plan, place):
        patient = replace(step, limit=step.limit * (HOST_PATIENCE if place.rehearse else 1))
        result = run(patient, end - time.monotonic())
        print(f"{result.name}: {result.status} ({result.seconds:.0f} s)", flush=True)
        if result.status not in ("passed", "skipped"):
            print(result.said, flush=True)
            good = False
        report["steps"].append(asdict(result))
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(report, indent=1) + "\n")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", choices=list(SECONDS), help="four minutes, or eight")
    parser.add_argument("--rehearse", action="store_true", help="the emulator instead of a device")
    parser.add_argument("--seconds", type=float, help="time for all of it (default: the plan's)")
    parser.add_argument(
        "--json", type=Path, help="the report (default: beside the suites' results)"
    )
    arguments = parser.parse_args()
    if not arguments.rehearse and not torch.cuda.is_available():
        print("no CUDA device that torch can use; --rehearse runs on the host", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        results = machine_folder(ROOT / "benchmarks" / "results")
        place = Place(
            arguments.rehearse, Path(scratch) if arguments.rehearse else results, Path(scratch)
        )
        target = arguments.json
        if target is None and not arguments.rehearse:
            target = results / f"gpu_check_{arguments.plan}.json"
        seconds = arguments.seconds or SECONDS[arguments.plan]
        good = check(arguments.plan, place, seconds, target)
        if target is not None:
            print(f"written: {target}")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
