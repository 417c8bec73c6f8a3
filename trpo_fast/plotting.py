"""Curves of one or more runs: return, KL, explained variance and where the time went, in one PNG.

Runs that differ in their seed only are one curve: the mean over seeds, with a band of its 95 %
confidence interval.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import files
from .config import read_toml
from .logger import read_progress

POINTS = 200  # per curve
TIMES = ("env_seconds", "act_seconds", "update_seconds", "critic_seconds")
# Two-sided 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom.
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


def band(
    runs: Sequence[dict[str, list[float]]], name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(steps, mean, half width of the confidence interval) of a column over seeds, on a common
    grid.
    """
    end = min(run["steps"][-1] for run in runs)
    start = max(run["steps"][0] for run in runs)
    grid = np.linspace(start, max(start, end), POINTS)
    curves = []
    for run in runs:
        steps, values = np.asarray(run["steps"]), np.asarray(run[name])
        known = np.isfinite(values)
        curves.append(
            np.interp(grid, steps[known], values[known]) if known.any() else grid * np.nan
        )
    curve = np.stack(curves)
    if len(runs) == 1:
        return grid, curve[0], np.zeros_like(grid)
    factor = STUDENT[min(len(runs) - 2, len(STUDENT) - 1)]
    return grid, curve.mean(0), factor * curve.std(0, ddof=1) / np.sqrt(len(runs))


def group_runs(paths: Sequence[str | os.PathLike[str]]) -> dict[str, list[dict[str, Any]]]:
    """Runs by label: those whose settings differ in the seed only share one."""
    settings = [_settings(Path(path)) for path in paths]
    varying = _telling(settings)
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, setting in zip(paths, settings, strict=True):
        label = ", ".join(f"{n}={setting.get(n)}" for n in varying) or str(setting.get("env", path))
        if not setting:
            label = Path(path).name
        groups.setdefault(label, []).append(read_progress(path))
    return groups


def _telling(settings: list[dict[str, Any]]) -> list[str]:
    """Names of the settings that tell the runs apart, one alone where one is enough."""
    names = sorted(set().union(*settings) - {"seed"})
    values = {name: [repr(setting.get(name)) for setting in settings] for name in names}
    varying = [name for name in names if len(set(values[name])) > 1]
    kinds = len(set(zip(*(values[name] for name in varying), strict=True)))
    alone = [name for name in varying if len(set(values[name])) == kinds]
    # The name of an algorithm says more than the learning rate that goes with it.
    alone.sort(key=lambda name: name not in ("algorithm", "sampling", "critic", "env"))
    return alone[:1] or varying


def _settings(path: Path) -> dict[str, Any]:
    file = path / "config.toml"
    return read_toml(file) if file.is_file() else {}


def plot_runs(paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Path:
    """Draw the runs into a picture of the format that the path's ending names, a PNG without one,
    and return its path.
    """
    figure, data, out = draw_runs(paths), io.BytesIO(), Path(out)
    figure.savefig(data, dpi=120, format=out.suffix[1:] or "png")
    files.write(out, data.getvalue())
    return out


def draw_runs(paths: Sequence[str | os.PathLike[str]]) -> Any:
    """The runs as a matplotlib figure of four panels."""
    from matplotlib.figure import Figure

    groups = group_runs(paths)
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    panels = [
        ("return", "return"),
        ("kl", "KL per update"),
        ("explained_variance", "explained variance"),
    ]
    for axis, (name, title) in zip(axes.flat, panels, strict=False):
        for label, runs in groups.items():
            steps, mean, half = band(runs, name)
            (drawn,) = axis.plot(steps, mean, label=f"{label} ({len(runs)})", linewidth=1.2)
            axis.fill_between(steps, mean - half, mean + half, color=drawn.get_color(), alpha=0.2)
        axis.set_title(title)
        axis.set_xlabel("environment steps")
        axis.grid(alpha=0.3)
    axes[0, 1].set_ylim(bottom=0.0)
    axes[1, 0].set_ylim(-1.0, 1.05)
    axes[0, 0].legend(fontsize=8)
    _draw_times(axes[1, 1], groups)
    return figure


def _draw_times(axis: Any, groups: dict[str, list[dict[str, Any]]]) -> None:
    """Horizontal bars: the share of wall time in environments, acting, policy update and critic."""
    left = np.zeros(len(groups))
    for name in TIMES:
        share = []
        for runs in groups.values():
            total = sum(np.nansum(run["seconds"]) for run in runs)
            share.append(100.0 * sum(np.nansum(run[name]) for run in runs) / total)
        axis.barh(list(groups), share, left=left, label=name.removesuffix("_seconds"))
        left += np.asarray(share)
    axis.set_title("share of wall time, %")
    axis.legend(fontsize=8)
