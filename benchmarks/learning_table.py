"""Learning runs as committed JSON, a table beside the published results, and one plot.

What the columns mean, because the published ones differ:
    final         mean over seeds of the last evaluation (ten deterministic episodes)
    max average   the largest mean over seeds of any evaluation: tianshou's metric
    training      mean over seeds of the last 100 training episodes, with the policy's noise
± is the standard deviation over seeds (divided by n, as tianshou's), on each column.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trpo_fast.cli.plotting import band
from trpo_fast.train.config import from_dict, read_toml
from trpo_fast.train.loggers import read_progress

POINTS = 50  # kept of every training curve

# What others publish for their TRPO: tianshou's max average over 10 seeds at 1M steps, rl-zoo's
# one trained agent (deterministic episodes), sb3-contrib's documented mean over 3 seeds at 1M.
# Their environments are -v2 to -v4 for MuJoCo, LunarLander-v2, and the same for the rest.
PUBLISHED: dict[str, dict[str, float]] = {
    "Hopper-v5": {"tianshou": 2046.0, "rl-zoo": 3618.4, "sb3-contrib": 3372.0},
    "HalfCheetah-v5": {"tianshou": 4471.2, "rl-zoo": 1785.5, "sb3-contrib": 1803.0},
    "Walker2d-v5": {"tianshou": 3826.7, "rl-zoo": 4933.1, "sb3-contrib": 4502.0},
    "Swimmer-v5": {"tianshou": 40.9, "rl-zoo": 365.7, "sb3-contrib": 359.0},
    "InvertedPendulum-v5": {"tianshou": 1000.0},
    "InvertedDoublePendulum-v5": {"tianshou": 8435.2},
    "Reacher-v5": {"tianshou": -5.1},
    "Ant-v5": {"tianshou": 2866.7, "rl-zoo": 4982.3, "sb3-contrib": 3554.0},
    "Pendulum-v1": {"rl-zoo": -174.6},
    "Acrobot-v1": {"rl-zoo": -83.1},
    "MountainCarContinuous-v0": {"rl-zoo": 92.5},
    "LunarLander-v3": {"rl-zoo": 133.2},
}


def read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def read_run(directory: Path) -> dict[str, Any] | None:
    """One seed, thinned: what the JSON keeps of it; None before it came to its end."""
    rows, timing = read_rows(directory / "evaluation.csv"), directory / "timing.json"
    if not rows or not timing.exists():
        return None
    progress = read_progress(directory)
    kept = np.unique(np.linspace(0, len(progress["steps"]) - 1, POINTS).astype(int))
    curve = {
        name: [_short(progress[name][i]) for i in kept]
        for name in ("steps", "return", "kl", "explained_variance")
    }
    reasons = [row["reason"] for row in read_rows(directory / "progress.csv")]
    return {
        "seed": int(directory.name.rpartition("-")[2]),
        "evaluations": [[int(row["steps"]), _short(float(row["return"]))] for row in rows],
        "training": curve,
        "updates": len(reasons),
        "not_accepted": sum(reason != "accepted" for reason in reasons),
        "seconds": json.loads(timing.read_text()),
    }


def _short(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None


def collect(runs: Path, label: str, out: Path) -> None:
    """One JSON for every environment under ``runs``: settings, and every seed that is through.

    Seeds that the JSON already has, and ``runs`` has not, stay where the settings are the same.
    """
    out.mkdir(parents=True, exist_ok=True)
    for environment in sorted(runs.iterdir()):
        directories = sorted(environment.glob(f"{label}-[0-9]*"))
        found = [run for directory in directories if (run := read_run(directory))]
        if not found:
            continue
        config = read_toml(directories[0] / "config.toml")
        config.pop("seed")
        found += _kept(out / f"{environment.name}.json", config, {run["seed"] for run in found})
        found.sort(key=lambda run: run["seed"])
        content = {"env": environment.name, "label": label, "config": config, "seeds": found}
        text = json.dumps(content, indent=1)
        # One line for every list of numbers: the file is read by people too.
        text = re.sub(r"\[[^\[\]{}]*\]", lambda m: re.sub(r"\s+", " ", m[0]), text)
        (out / f"{environment.name}.json").write_text(text + "\n")


def _kept(path: Path, config: dict[str, Any], replaced: set[int]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    before = json.loads(path.read_text())
    # As whole configs: a file from before a setting existed has what is now its default.
    if from_dict(before["config"]) != from_dict(config):
        return []
    return [run for run in before["seeds"] if run["seed"] not in replaced]


def results(out: Path) -> list[dict[str, Any]]:
    """The committed rows in the order of ``PUBLISHED``, then the others."""
    found = {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}
    order = [name for name in PUBLISHED if name in found]
    return [found[name] for name in order + sorted(set(found) - set(order))]


def summarise(row: dict[str, Any]) -> dict[str, Any]:
    """Metrics over the seeds that ran as far as the furthest."""
    furthest = max(run["evaluations"][-1][0] for run in row["seeds"])
    whole = [run for run in row["seeds"] if run["evaluations"][-1][0] >= 0.99 * furthest]
    points = min(len(run["evaluations"]) for run in whole)
    grid = np.array([[value for _, value in run["evaluations"][-points:]] for run in whole])
    training = np.array([run["training"]["return"][-1] for run in whole], float)
    best = int(grid.mean(0).argmax())
    return {
        "seeds": [run["seed"] for run in whole],
        "steps": furthest,
        "final": grid[:, -1],
        "max_average": grid[:, best],
        "training": training,
        "cpu": [run["seconds"]["cpu"] for run in whole],
    }


def table(out: Path) -> str:
    """The table in markdown."""
    lines = [
        "| env | steps | seeds | final | max average | training | published | final, each seed "
        "| one run takes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results(out):
        s, published = summarise(row), PUBLISHED.get(row["env"], {})
        names = ", ".join(f"{who} {value:g}" for who, value in published.items())
        # Like for like: tianshou's metric is the max average, the others' a trained agent's return.
        ours = {who: s["max_average" if who == "tianshou" else "final"].mean() for who in published}
        short = [who for who, value in published.items() if ours[who] < value]
        mark = f"; below {', '.join(short)}" if short else ("; at or above all" if names else "")
        final, best = s["final"].mean(), s["max_average"].mean()
        if best - final > 0.5 * abs(best):
            mark += "; **collapsed after its best**"
        each = ", ".join(f"{value:.4g}" for value in s["final"])
        cells = [row["env"], f"{s['steps'] / 1e6:.2g}M", str(len(s["seeds"]))]
        cells += [_pair(s[name]) for name in ("final", "max_average", "training")]
        cpu = f"{np.mean(s['cpu']):.0f} s of a core"
        lines.append("| " + " | ".join([*cells, names + mark, each, cpu]) + " |")
    return "\n".join(lines)


def _pair(values: np.ndarray) -> str:
    digits = 0 if abs(values.mean()) >= 200 else 1
    spread = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def _curves(runs: Sequence[dict[str, Any]]) -> list[dict[str, list[float]]]:
    return [
        {"steps": [s for s, _ in run["evaluations"]], "return": [r for _, r in run["evaluations"]]}
        for run in runs
    ]


def draw(out: Path, path: Path) -> None:
    """A panel for each environment: evaluations with the 95 % interval over seeds, published
    results as lines.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = results(out)
    height = -(-len(rows) // 4)
    figure, axes = plt.subplots(
        height, 4, figsize=(15, 3.2 * height), squeeze=False, constrained_layout=True
    )
    for axis in axes.flat[len(rows) :]:
        axis.axis("off")
    for axis, row in zip(axes.flat, rows, strict=False):
        curves = _curves(row["seeds"])
        for curve in curves:
            axis.plot(curve["steps"], curve["return"], color="C0", alpha=0.3, linewidth=0.8)
        steps, mean, half = band(curves, "return")
        axis.plot(steps, mean, color="C0", label=f"trpo_fast (n = {len(curves)})")
        low, high = axis.get_ylim()
        if len(curves) > 1:
            axis.fill_between(steps, mean - half, mean + half, color="C0", alpha=0.15)
        for i, (who, value) in enumerate(PUBLISHED.get(row["env"], {}).items(), start=1):
            axis.axhline(value, color=f"C{i}", linestyle="--", linewidth=0.9, label=who)
            low, high = min(low, value), max(high, value)
        pad = 0.03 * (high - low)
        axis.set_ylim(low - pad, high + pad)
        axis.set_title(row["env"], fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6)
    figure.savefig(path, dpi=90)
    plt.close(figure)
