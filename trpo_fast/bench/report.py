"""Rows, the environment they were measured in, the JSON file and the printed table."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .._base import files
from .._version import __version__
from .cases import CASES


@dataclass
class Row:
    """One contender on one case. ``ratio`` maps an opponent to its time over this row's; ``loss``,
    where something is fitted, is what it ends at: mean and standard error; ``gain``, where it takes
    a step, is that of ``trpo_fast/bench/gain.py``.
    """

    suite: str
    case: str
    n: int
    p: int
    k: int
    backend: str
    precision: str
    threads: int
    median_us: float
    rel_err: float
    flops: int
    peak_flops: float  # sgemm's rate in the same run
    ratio: dict[str, float] = field(default_factory=dict)
    loss: dict[str, float] | None = None
    gain: float | None = None

    @property
    def gflops(self) -> float:
        """Useful flops per second, in 1e9."""
        return self.flops / self.median_us / 1e3

    @property
    def efficiency(self) -> float:
        """Useful flops per second over sgemm's."""
        return self.gflops * 1e9 / self.peak_flops

    @property
    def products_per_second(self) -> float | None:
        """Fisher-vector products per second, where a call makes nothing but them and their forward:
        one in fvp, k in cg.
        """
        products = {"fvp": 1, "cg": self.k}.get(self.suite.removesuffix("_busy"))
        return None if products is None else products / (self.median_us * 1e-6)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _instruction_sets() -> list[str]:
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return []
    return [name for name in ("avx2", "avx512f", "amx_bf16") if name in flags]


def environment(device: str, **measured: float) -> dict[str, Any]:
    """What a reader needs to judge the rows: machine, versions, rooflines measured in this run."""
    packages = ("torch", "numpy", "jax", "stable-baselines3", "sb3-contrib")
    header: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "trpo_fast": __version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "instruction_sets": _instruction_sets(),
        "device": device,
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {name: _version(name) for name in packages},
    }
    if device.startswith("cuda"):
        header["gpu"] = torch.cuda.get_device_name()
        header["cuda"] = torch.version.cuda
    return {**header, **measured}


def machine_name(header: Mapping[str, Any]) -> str:
    """A folder name for results: h200, xeon-2core-avx512."""
    if "gpu" in header:
        return str(header["gpu"]).lower().replace("nvidia", "").strip().replace(" ", "-")
    vendor = str(header["cpu"]).lower()
    family = next((name for name in ("xeon", "epyc", "ryzen", "core") if name in vendor), "cpu")
    sets = header["instruction_sets"]
    isa = "amx" if "amx_bf16" in sets else "avx512" if "avx512f" in sets else "avx2"
    return f"{family}-{header['cores']}core-{isa if sets else 'base'}"


def write_json(
    path: Path,
    header: Mapping[str, Any],
    rows: Iterable[Row],
    skipped: Mapping[str, str],
) -> None:
    """{"environment", "rows", "skipped"}, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "environment": dict(header),
        "rows": [{k: v for k, v in asdict(row).items() if v is not None} for row in rows],
        "skipped": dict(skipped),
    }
    files.write(path, (json.dumps(document, indent=1) + "\n").encode())


def read_json(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """Environment and rows."""
    document = json.loads(path.read_text())
    return document["environment"], [Row(**row) for row in document["rows"]]


def merge(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """``new`` after what is left of ``old``: a case that was run again replaces its rows."""
    new = list(new)
    again = {(row.suite, row.case, row.threads) for row in new}
    kept = [row for row in old if (row.suite, row.case, row.threads) not in again]
    order = list(CASES)
    return sorted(kept + new, key=lambda row: (row.suite, order.index(row.case), row.threads))


def sgemm_range(rows: Iterable[Row]) -> list[float]:
    """Slowest and fastest sgemm beside which the rows were measured, in GF/s."""
    rates = [row.peak_flops / 1e9 for row in rows]
    return [round(f(rates), 1) for f in (min, max) if rates]


def format_time(microseconds: float) -> str:
    if microseconds < 1e3:
        return f"{microseconds:.1f} us"
    return f"{microseconds / 1e3:.2f} ms" if microseconds < 1e6 else f"{microseconds / 1e6:.2f} s"


def format_products(row: Row) -> str:
    """Products per second; empty where a call is more than its products."""
    rate = row.products_per_second
    return "" if rate is None else f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def format_gflops(row: Row) -> str:
    return f"{row.gflops:.0f}" if row.gflops >= 100 else f"{row.gflops:.3g}"


def format_gain(row: Row) -> str:
    return "" if row.gain is None else f"{row.gain:.4f}"


def table(rows: Iterable[Row]) -> str:
    """Plain columns: case, contender, median, rates, share of sgemm, error, the gain where a row
    has one, and the ratios.
    """
    rows = list(rows)
    gains = any(row.gain is not None for row in rows)
    lines = [
        f"{'suite':<13} {'case':<11} {'k':>3} {'contender':<22} {'precision':<10} {'thr':>3} "
        f"{'median':>11} {'products/s':>10} {'GF/s':>8} {'of sgemm':>8} {'error':>8}"
        f"{'    gain' if gains else ''}  opponent's time / ours"
    ]
    for row in rows:
        ratios = "  ".join(f"{name} {value:.2f}x" for name, value in row.ratio.items())
        gain = f"{format_gain(row):>8}" if gains else ""
        lines.append(
            f"{row.suite:<13} {row.case:<11} {row.k:>3} {row.backend:<22} {row.precision:<10} "
            f"{row.threads:>3} {format_time(row.median_us):>11} {format_products(row):>10} "
            f"{format_gflops(row):>8} {row.efficiency:>8.1%} {row.rel_err:>8.1e}{gain}  {ratios}"
        )
    return "\n".join(lines)
