"""What `trpo-fast plot` shows: every run to its end, seeds once, only what was seen, and names as
they are.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from small_runs import refused

from trpo_fast.cli.main import main
from trpo_fast.cli.plotting import NEEDED, band, draw_runs, group_runs, notes, plot_runs


def write(folder: Path, returns: list[float], **changes: object) -> Path:
    """A run of one update each 1000 steps; ``changes`` are columns, or settings with a capital."""
    folder.mkdir(parents=True)
    rows = ["update," + ",".join(NEEDED)]
    for i, value in enumerate(returns, start=1):
        row = dict.fromkeys(NEEDED, 0.25) | {"steps": 1000 * i, "return": value, "seconds": 1.0}
        row |= {name: column[i - 1] for name, column in changes.items() if name in NEEDED}  # type: ignore[index]
        rows.append(",".join(map(str, [i, *row.values()])))
    (folder / "progress.csv").write_text("\n".join(rows) + "\n")
    settings = {"env": "E-v0", "seed": 0} | {
        name.lower(): value for name, value in changes.items() if name not in NEEDED
    }
    lines = [
        f"{name} = {value if name == 'seed' else repr(value)}" for name, value in settings.items()
    ]
    (folder / "config.toml").write_text("\n".join(lines) + "\n")
    return folder


def test_a_longer_run_is_drawn_to_where_half_go_on(tmp_path: Path) -> None:
    lengths = {"a": 10, "b": 40, "c": 60, "d": 60, "e": 100}
    runs = [
        write(tmp_path / name, [float(i)] * length, Seed=i)
        for i, (name, length) in enumerate(lengths.items())
    ]
    (group,) = group_runs(runs).values()
    steps, mean, half = band(group, "return")
    assert (steps[0], steps[-1]) == (1000, 60_000)
    assert mean[0] == 2.0 and mean[-1] == 3.0  # of all five, and of the three that are left
    assert half[-1] == pytest.approx(4.30 * 1.0 / 3**0.5)
    (said,) = (note for note in notes(runs) if "runs end" in note)
    assert said.startswith("E-v0: runs end between 10k and 100k steps; the mean is over those")


def test_runs_of_one_length_need_no_note(tmp_path: Path) -> None:
    assert notes([write(tmp_path / str(i), [1.0] * 5, Seed=i) for i in range(3)]) == []


def test_a_repeated_seed_counts_once_by_its_longest_run(tmp_path: Path) -> None:
    runs = [write(tmp_path / "a", [1.0] * 5), write(tmp_path / "b", [2.0] * 9)]
    runs += [write(tmp_path / "c", [3.0] * 9, Seed=1), tmp_path / "a"]
    (group,) = group_runs(runs).values()
    assert [run["return"][0] for run in group] == [2.0, 3.0]
    assert notes(runs)[0] == "E-v0: seed 0 is there 3 times and counts once, by its longest run"
    assert draw_runs(runs).legends[0].get_texts()[0].get_text() == "E-v0 (2 seeds)"


def test_a_band_stays_within_the_returns_seen(tmp_path: Path) -> None:
    runs = [write(tmp_path / str(i), [9.0, 500.0, 480.0 + i], Seed=i) for i in range(2)]
    figure = draw_runs(runs)
    edges = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert edges.min() >= 9.0 and edges.max() <= 500.0


def test_one_bad_fit_does_not_hide_the_explained_variance(tmp_path: Path) -> None:
    values = [0.9] * 50 + [-1000.0] + [0.9] * 50
    axis = draw_runs([write(tmp_path / "a", values, explained_variance=values)]).axes[2]
    mean = axis.get_lines()[-1].get_ydata()
    assert mean[0] == pytest.approx(0.9) and mean.min() == pytest.approx((4 * 0.9 - 1) / 5)
    assert axis.get_ylim() == (-0.05, 1.05)


def test_steps_are_written_as_people_do(tmp_path: Path) -> None:
    figure = draw_runs([write(tmp_path / "a", [1.0] * 2000)])
    figure.canvas.draw()
    ticks = {text.get_text() for text in figure.axes[0].get_xticklabels()}
    assert "1M" in ticks and any(text.endswith("k") for text in ticks)


def test_no_legend_covers_a_bar_or_a_title(tmp_path: Path) -> None:
    figure = draw_runs([write(tmp_path / n, [1.0] * 5, Env=f"{n}-v0") for n in "abcdef"])
    figure.canvas.draw()
    axis = figure.axes[3]
    legend = axis.get_legend().get_window_extent()
    assert not legend.overlaps(axis.get_window_extent())
    top = figure.legends[0].get_window_extent()
    assert not any(top.overlaps(a.get_tightbbox()) for a in figure.axes)


@pytest.mark.parametrize("env", [r"$\frac{$", "$", r"a\$b$", "x" * 500, "two\nlines", "%s {0} _"])
def test_any_name_is_shown_as_it_is(env: str, tmp_path: Path) -> None:
    runs = [write(tmp_path / "a", [1.0] * 3), write(tmp_path / "b", [2.0] * 3)]
    (runs[1] / "config.toml").write_text(f"env = {json.dumps(env)}\nseed = 0\n")
    assert plot_runs(runs, tmp_path / "c.png").stat().st_size > 10_000
    shown = draw_runs(runs).legends[0].get_texts()[1]
    drawn, formula = shown._preprocess_math(shown.get_text())
    expected = f"env={env}".replace("\n", " ")
    assert not formula and drawn.replace("…", "").removesuffix(" (1 seed)") in expected


BROKEN = {
    "columns": ("update,steps\n1,5\n", "run: expected the columns return, kl, explained_variance"),
    "steps": (
        f"update,{','.join(NEEDED)}\n1,x,1,1,1,1,1,1,1,1\n",
        "run: expected numbers in the column steps",
    ),
    "rows": ("a,b\n1,2\n", "run: expected at least one update"),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_log_is_a_sentence(text: str, message: str, tmp_path, capsys) -> None:
    (tmp_path / "progress.csv").write_text(text)
    refused(["plot", str(tmp_path)], message, capsys)


def test_a_run_without_a_finite_value_is_drawn_empty(tmp_path: Path) -> None:
    nothing = [float("nan")] * 4
    columns = dict.fromkeys(("kl", "explained_variance", "seconds"), nothing)
    run = write(tmp_path / "a", nothing, **columns)
    with np.errstate(all="raise"):
        assert plot_runs([run, write(tmp_path / "b", [1.0] * 4)], tmp_path / "c.png").exists()


def test_the_command_prints_the_notes_and_the_picture(tmp_path: Path, capsys) -> None:
    runs = [str(write(tmp_path / n, [1.0] * 5)) for n in "ab"]
    out = tmp_path / "c.png"
    assert main(["plot", *runs, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}\n" and "seed 0 is there 2 times" in said.err
