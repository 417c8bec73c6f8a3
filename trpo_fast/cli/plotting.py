"""Curves of one or more runs: return, KL, explained variance and where the time went, in one PNG.

Runs that differ in their seed only are one curve, the mean over seeds. The band of the return is
the mean's 95 % confidence interval, within the returns seen; the bands of KL and explained variance
go from the lowest to the highest seed. Where runs end at different steps the mean is over those
that go on, as long as they are at least half. A seed counts once: its longest run.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

from .._base import files
from ..train.config import read_toml
from ..train.loggers import read_progress

POINTS = 200  # per curve
SMOOTH = 20  # running means are over so small a share of a run's updates
TIMES = ("env_seconds", "act_seconds", "update_seconds", "critic_seconds")
PANELS = {
    "return": "return",
    "kl": "KL per update",
    "explained_variance": "explained variance",
}
NEEDED = ("steps", *PANELS, "seconds", *TIMES)
# Two-sided 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom.
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#444444")
GREY = "#555555"
TIME_COLOURS = ("#c9d1d9", "#8ecae6", "#5b9bd5", "#f2b84b", "#eeeeee")


def band(
    runs: Sequence[dict[str, list[float]]], name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(steps, mean, half width of the confidence interval) of a column over seeds, on a common
    grid: from where half of the runs have begun to where fewer than half go on.
    """
    starts, ends = (sorted(run["steps"][i] for run in runs) for i in (0, -1))
    half = (len(runs) + 1) // 2
    begin, end = starts[half - 1], ends[-half]
    grid = np.linspace(begin, max(begin, end), POINTS)
    curve = np.stack([_on_grid(run, name, grid) for run in runs])
    count = np.isfinite(curve).sum(0)
    mean = np.nansum(curve, 0) / np.where(count, count, np.nan)
    spread = np.nansum((curve - mean) ** 2, 0) / np.maximum(count - 1, 1)
    factor = np.array([0.0, 0.0, *STUDENT])[np.minimum(count, len(STUDENT) + 1)]
    return grid, mean, factor * np.sqrt(spread / np.maximum(count, 1))


def _on_grid(run: dict[str, list[float]], name: str, grid: np.ndarray) -> np.ndarray:
    """A column between its first and its last step; NaN elsewhere."""
    steps, values = np.asarray(run["steps"]), np.asarray(run[name])
    known = np.isfinite(values)
    if not known.any():
        return np.full_like(grid, np.nan)
    inside = (grid >= steps[0]) & (grid <= steps[-1])
    return np.where(inside, np.interp(grid, steps[known], values[known]), np.nan)


def group_runs(paths: Sequence[str | os.PathLike[str]]) -> dict[str, list[dict[str, Any]]]:
    """Runs by label: those whose settings differ in the seed only share one. Of several runs from
    one seed the longest is kept: they are no more evidence than one.
    """
    return _grouped(paths)[0]


def _grouped(
    paths: Sequence[str | os.PathLike[str]],
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """The groups, and a sentence about every seed that was there several times."""
    settings = [_settings(Path(path)) for path in paths]
    varying = _distinguishing(settings)
    found: dict[str, dict[Any, list[dict[str, Any]]]] = {}
    for i, (path, setting) in enumerate(zip(paths, settings, strict=True)):
        label = ", ".join(f"{n}={setting.get(n)}" for n in varying) or str(setting.get("env", path))
        if not setting:
            label = Path(path).name
        seed = f"seed {setting['seed']}" if "seed" in setting else i
        found.setdefault(label, {}).setdefault(seed, []).append(_progress(path))
    groups = {
        label: [max(runs, key=lambda run: run["steps"][-1]) for runs in seeds.values()]
        for label, seeds in found.items()
    }
    repeated = [
        f"{label}: {seed} is there {len(runs)} times and counts once, by its longest run"
        for label, seeds in found.items()
        for seed, runs in seeds.items()
        if len(runs) > 1
    ]
    return groups, repeated


def _progress(path: str | os.PathLike[str]) -> dict[str, Any]:
    run = read_progress(path)
    if missing := [name for name in NEEDED if name not in run]:
        raise ValueError(f"run: expected the columns {', '.join(missing)} in {path}, got none")
    if not np.isfinite(run["steps"]).all():
        raise ValueError(f"run: expected numbers in the column steps of {path}, got none in a row")
    return run


def _distinguishing(settings: list[dict[str, Any]]) -> list[str]:
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


def notes(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """What a reader of the curves must know, a sentence each."""
    groups, said = _grouped(paths)
    return said + _about(groups)


def _about(groups: dict[str, list[dict[str, Any]]]) -> list[str]:
    said = []
    for label, runs in groups.items():
        ends = [run["steps"][-1] for run in runs]
        if max(ends) - min(ends) > 0.01 * max(ends):
            said.append(
                f"{label}: runs end between {_steps(min(ends))} and {_steps(max(ends))} steps; the "
                "mean is over those that go on, as long as at least half do"
            )
    windows = {_window(run) for runs in groups.values() for run in runs} - {1}
    if windows:
        counts = " or ".join(map(str, sorted(windows)))
        said.append(f"KL and explained variance: running mean of {counts} updates")
    return said


def draw_runs(paths: Sequence[str | os.PathLike[str]]) -> Any:
    """The runs as a matplotlib figure of four panels."""
    from matplotlib.figure import Figure

    groups, said = _grouped(paths)
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    axes = figure.subplots(2, 2)
    for axis, (name, title) in zip(axes.flat, PANELS.items(), strict=False):
        lines = [
            _draw_curve(axis, runs, name, COLOURS[i % len(COLOURS)])
            for i, runs in enumerate(groups.values())
        ]
        _style(axis, title)
        axis.margins(x=0.01)
        axis.xaxis.set_major_formatter(lambda step, _: _steps(step))
        axis.set_xlabel("environment steps", color=GREY)
    axes[0, 1].set_ylim(bottom=0.0)
    lowest = min(np.nanmin([0.0, *line.get_ydata()]) for line in lines)
    axes[1, 0].set_ylim(lowest - 0.05, 1.05)
    _draw_times(axes[1, 1], groups)
    labels = [_count(label, runs) for label, runs in groups.items()]
    figure.legend(lines, labels, loc="outside upper left", ncols=min(3, len(labels)), frameon=False)
    if lines := [_plain(line, 150) for note in said + _about(groups) for line in wrap(note, 150)]:
        figure.supxlabel("\n".join(lines), fontsize=8, color=GREY, x=0.01, ha="left")
    return figure


def _draw_curve(axis: Any, runs: list[dict[str, Any]], name: str, colour: str) -> Any:
    """The mean over seeds with its band; of a single run also every update."""
    kept = [{"steps": run["steps"], name: _readable(run, name)} for run in runs]
    if len(kept) == 1 and kept[0][name] is not runs[0][name]:
        axis.plot(runs[0]["steps"], runs[0][name], color=colour, linewidth=0.6, alpha=0.25)
    steps, mean, half = band(kept, name)
    (drawn,) = axis.plot(steps, mean, color=colour, linewidth=1.8)
    if len(kept) > 1:
        curves = np.stack([_on_grid(run, name, steps) for run in kept])
        low, high = np.fmin.reduce(curves), np.fmax.reduce(curves)
        if name == "return":  # of two or three seeds the interval would leave what is possible
            low = np.maximum(mean - half, np.fmin.reduce(low))
            high = np.minimum(mean + half, np.fmax.reduce(high))
        axis.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    return drawn


def _readable(run: dict[str, Any], name: str) -> Any:
    """A column as it is drawn: returns as they are (means over episodes already), others as running
    means, explained variance within [-1, 1]: one bad fit can be at -1000.
    """
    if name == "return":
        return run[name]
    values = np.asarray(run[name])
    if name == "explained_variance":
        values = np.clip(values, -1.0, 1.0)
    known, width = np.isfinite(values), _window(run)
    sums, counts = (np.cumsum([0.0, *part]) for part in (np.where(known, values, 0.0), known))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    found = counts[ends] - counts[starts]
    return np.where(found, (sums[ends] - sums[starts]) / np.maximum(found, 1), np.nan)


def _window(run: dict[str, Any]) -> int:
    """How many updates a running mean is over."""
    return max(1, len(run["steps"]) // SMOOTH)


def _draw_times(axis: Any, groups: dict[str, list[dict[str, Any]]]) -> None:
    """Horizontal bars: the share of wall time in environments, acting, policy update, critic and
    the rest.
    """
    totals = [sum(np.nansum(run["seconds"]) for run in runs) or 1.0 for runs in groups.values()]
    left = np.zeros(len(groups))
    for name, colour in zip((*TIMES, "rest"), TIME_COLOURS, strict=True):
        spent = [sum(np.nansum(run.get(name, 0.0)) for run in runs) for runs in groups.values()]
        share = 100.0 * np.asarray(spent) / totals
        if name == "rest":
            share = np.maximum(0.0, 100.0 - left)
        bars = axis.barh(
            range(len(groups)),
            share,
            left=left,
            height=0.6,
            color=colour,
            label=name.removesuffix("_seconds"),
        )
        written = [f"{part:.0f}" if part >= 4 else "" for part in share]
        axis.bar_label(bars, written, label_type="center", fontsize=9)
        left += share
    _style(axis, "share of wall time, %")
    axis.grid(visible=False)
    axis.set_yticks(range(len(groups)), [_plain(label, 30) for label in groups])
    middle, reach = (len(groups) - 1) / 2, max(1.4, len(groups) / 2 + 0.1)
    axis.set_ylim(middle + reach, middle - reach)  # the first at the top
    axis.set_xlim(0, 100)
    axis.legend(loc="upper center", ncols=5, frameon=False, bbox_to_anchor=(0.5, -0.08))


def _style(axis: Any, title: str) -> None:
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#aaaaaa")
    axis.tick_params(colors=GREY, labelsize=9)
    axis.grid(color="#e8e8e8")
    axis.set_axisbelow(True)


def _steps(count: float) -> str:
    """100k, 1.5M: as a person writes it."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:.4g}{letter}"
    return f"{count:.4g}"


def _count(label: str, runs: list[Any]) -> str:
    return f"{_plain(label)} ({len(runs)} {'seed' if len(runs) == 1 else 'seeds'})"


def _plain(text: str, width: int = 72) -> str:
    """Text that matplotlib shows letter by letter: a dollar would begin a formula."""
    line = " ".join(text.split())
    line = line if len(line) <= width else line[: width - 1] + "…"
    return line.replace("$", r"\$")
