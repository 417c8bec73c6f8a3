"""Logs of a run: lines, files that survive a resume, TensorBoard, and curves with bands over
seeds.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trpo_fast.cli.plotting import band, draw_runs, group_runs, plot_runs
from trpo_fast.core.problem import REASONS
from trpo_fast.train.loggers import (
    COLUMNS,
    ConsoleLogger,
    CsvLogger,
    JsonLogger,
    LogFile,
    Loggers,
    clock,
    header,
    line,
    read_progress,
)


class Agent:
    steps = 0


def record(update: int, **changes: Any) -> dict[str, Any]:
    times = {f"{part}_seconds": 0.25 for part in ("env", "act", "update", "critic")}
    return {
        "update": update,
        "steps": 100 * update,
        "rows": 100,
        "collected": 100,
        "return": 10.0 * update,
        "kl": 0.01,
        "max_kl": 0.02,
        "entropy": 1.0,
        "explained_variance": math.nan,
        "reason": "accepted",
        "steps_per_second": 1234.5,
        "learner_share": 0.25,
        "seconds": 1.0,
        **times,
        **changes,
    }


def write(directory: Path, updates: range, **changes: Any) -> None:
    agent = Agent()
    with Loggers(CsvLogger(directory), JsonLogger(directory)) as log:
        for update in updates:
            agent.steps = 100 * update
            log(agent, record(update, **changes))


def test_the_line_says_what_matters() -> None:
    said = line(record(3), 3725.4).replace(" %", "%").split()
    assert said == "3 300 30.00 0.0100 0.0200 1.00 nan 1,234 25% 1:02:05".split()
    failed = line(record(3, reason="line_search_failed")).split()
    assert failed[:5] == "3 300 30.00 line_search_failed 1.00".split()
    assert line(record(3, max_kl=math.nan)).split()[3:6] == ["0.0100", "none", "1.00"]
    assert clock(3725.4) == "1:02:05"


@pytest.mark.parametrize("reason", REASONS)
def test_the_line_fits_a_terminal_of_100_columns_under_its_titles(reason: str) -> None:
    wide = {"return": -1e30, "entropy": -12.345, "explained_variance": -1.25, "kl": 123.4567}
    wide |= {"steps_per_second": 98_765_432.1, "learner_share": 1.0, "max_kl": 123.4567}
    for said in (record(3), record(99_999, steps=9_999_999_999, reason=reason, **wide)):
        text = line(said, 359_999.0)
        words = text.replace(" %", "%").split()
        assert len(text) <= 100 and len(words) == 10 - (said["reason"] != "accepted")
    titles = header().splitlines()
    assert [len(title) for title in titles] == [len(line(record(3), 0.0))] * 2
    end = 0
    for *title, width in COLUMNS:  # numbers stand under the ends of their titles
        end += width
        assert line(record(3), 0.0)[end - 1] != " " and titles[1][end - 1] == title[1][-1]


def test_the_titles_come_back() -> None:
    stream, agent = io.StringIO(), Agent()
    console = ConsoleLogger(10_000, stream=stream, bar=False)
    for update in range(1, 51):
        agent.steps = 100 * update
        console(agent, record(update))
    lines = stream.getvalue().splitlines()
    titles = header().splitlines()
    assert [i for i, text in enumerate(lines) if text == titles[1]] == [1, 43]
    assert lines[0] == titles[0] and len(lines) == 54


def test_the_time_left_is_that_of_the_steps_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("trpo_fast.train.loggers.time.perf_counter", lambda: now[0])
    stream, agent = io.StringIO(), Agent()
    console = ConsoleLogger(4000, stream=stream, bar=False)
    for update in (1, 2):
        agent.steps, now[0] = 100 * update, 10.0 * update
        console(agent, record(update))
    lines = stream.getvalue().splitlines()[2:]
    assert [text.split()[-1] for text in lines] == ["0:06:30", "0:06:20"]


def test_lines_come_every_so_many_updates() -> None:
    with pytest.raises(ValueError, match="every: expected an integer of at least 1, got 0"):
        ConsoleLogger(100, every=0)


@pytest.mark.parametrize("bar", [False, True])
def test_the_console_counts_from_where_a_run_resumes(bar: bool) -> None:
    stream, agent = io.StringIO(), Agent()
    console = ConsoleLogger(200, every=2, stream=stream, bar=bar)
    for update in (51, 52):
        agent.steps = 100 * update
        console(agent, record(update))
    console.close()
    text = stream.getvalue()
    lines = [words for text in text.splitlines() if (words := text.split())]
    shown = [words for words in lines if words[0] in ("51", "52")]
    assert [words[0] for words in shown] == ["52"] and shown[0][-1] == "0:00:00"
    assert not bar or "200/200" in text


def test_a_resumed_run_appends_and_its_later_rows_count(tmp_path: Path) -> None:
    write(tmp_path, range(1, 6))
    write(tmp_path, range(4, 8), kl=0.02)
    columns = read_progress(tmp_path)
    assert columns["update"] == [1, 2, 3, 4, 5, 6, 7]
    assert columns["kl"] == [0.01] * 3 + [0.02] * 4
    assert all(math.isnan(value) for value in columns["explained_variance"])
    lines = [json.loads(text) for text in (tmp_path / "progress.jsonl").read_text().splitlines()]
    assert len(lines) == 9 and lines[0]["explained_variance"] is None


def test_a_row_that_a_kill_cut_short_is_read_as_gaps(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    path = tmp_path / "progress.csv"
    path.write_text(path.read_text()[:-60])
    columns = read_progress(tmp_path)
    assert columns["update"] == [1, 2, 3] and math.isnan(columns["critic_seconds"][-1])


@pytest.mark.parametrize("cut", [1, 2, 3, 60, 88, 120])
def test_a_row_that_a_kill_cut_short_is_ended_before_the_next(tmp_path: Path, cut: int) -> None:
    write(tmp_path, range(1, 4))
    for name in ("progress.csv", "progress.jsonl"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-cut])
    assert set(read_progress(tmp_path)["update"]) >= {1, 2}
    write(tmp_path, range(4, 6))
    columns = read_progress(tmp_path)
    assert set(columns["update"]) >= {1, 2, 4, 5} and columns["update"][0] == 1
    assert columns["seconds"][-2:] == [1.0, 1.0] and columns["kl"][:2] == [0.01, 0.01]
    for name in columns:  # a number that was cut is a gap, not another number
        right = {record(update).get(name) for update in range(1, 6)}
        assert all(math.isnan(value) or value in right for value in columns[name])
    lines = (tmp_path / "progress.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines][-2:] == [4, 5]


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files cannot be written to beyond 4 KiB."""
    resource = pytest.importorskip("resource")
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("name", ["progress.csv", "progress.jsonl"])
def test_ending_a_row_on_a_full_disk_loses_no_other(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    write(tmp_path, range(1, 80))
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-30])
    rows = path.read_bytes().rpartition(b"\n")[0]
    assert len(rows) > 4096
    request.getfixturevalue("small_disk")
    with contextlib.suppress(OSError):
        LogFile(path).close()
    assert path.read_bytes().startswith(rows)


def test_a_header_that_a_kill_cut_short_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "progress.csv").write_text("update,ste")
    write(tmp_path, range(1, 3))
    assert read_progress(tmp_path)["steps"] == [100.0, 200.0]


def test_every_logger_is_closed_whatever_one_of_them_raises() -> None:
    closed = []

    class Log:
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)
            raise OSError(self.name)

    with pytest.raises(OSError), Loggers(Log("a"), Log("b")):
        pass
    assert sorted(closed) == ["a", "b"]


def test_missing_and_empty_runs_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run: expected a run directory"):
        read_progress(tmp_path)
    (tmp_path / "progress.csv").write_text("update,steps\n")
    with pytest.raises(ValueError, match="run: expected at least one update"):
        read_progress(tmp_path)
    (tmp_path / "curves.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ValueError, match=r"run: expected a run's progress.csv, got .*curves.png"):
        read_progress(tmp_path / "curves.png")


def test_bands_are_confidence_intervals_over_seeds() -> None:
    runs = [{"steps": [0.0, 10.0], "kl": [level, level]} for level in (1.0, 2.0, 3.0)]
    steps, mean, half = band(runs, "kl")
    assert steps[0] == 0.0 and steps[-1] == 10.0 and np.allclose(mean, 2.0)
    np.testing.assert_allclose(half, 4.30 * 1.0 / np.sqrt(3), rtol=1e-6)
    assert (band(runs[:1], "kl")[2] == 0).all()


def test_runs_that_differ_in_the_seed_share_a_curve(tmp_path: Path) -> None:
    for name, seed, kl in (("a", 1, 0.01), ("b", 2, 0.01), ("c", 1, 0.05)):
        write(tmp_path / name, range(1, 4))
        text = f'env = "CartPole-v1"\nseed = {seed}\nmax_kl = {kl}\n'
        (tmp_path / name / "config.toml").write_text(text)
    groups = group_runs([tmp_path / name for name in "abc"])
    assert {label: len(runs) for label, runs in groups.items()} == {
        "max_kl=0.01": 2,
        "max_kl=0.05": 1,
    }
    out = plot_runs([tmp_path / name for name in "abc"], tmp_path / "curves.png")
    assert out.read_bytes()[:4] == b"\x89PNG" and out.stat().st_size > 10_000


def test_every_panel_draws_its_own_column(tmp_path: Path) -> None:
    seconds = {"env_seconds": 0.5, "act_seconds": 0.25, "update_seconds": 0.2}
    seconds |= {"critic_seconds": 0.05, "explained_variance": 0.75}
    write(tmp_path / "a", range(1, 4), **seconds)
    figure = draw_runs([tmp_path / "a"])
    axes = figure.axes
    drawn = {axis.get_title(loc="left"): axis.get_lines()[0].get_xydata() for axis in axes[:3]}
    ends = {title: (points[0].tolist(), points[-1].tolist()) for title, points in drawn.items()}
    assert ends == {
        "return": ([100.0, 10.0], [300.0, 30.0]),
        "KL per update": ([100.0, 0.01], [300.0, 0.01]),
        "explained variance": ([100.0, 0.75], [300.0, 0.75]),
    }
    bars = [(bar.get_x(), bar.get_width()) for bar in axes[3].patches]
    np.testing.assert_allclose(bars, [(0, 50), (50, 25), (75, 20), (95, 5), (100, 0)], atol=1e-9)
    names = [text.get_text() for text in axes[3].get_legend().get_texts()]
    assert names == ["env", "act", "update", "critic", "rest"]
    assert figure.legends[0].get_texts()[0].get_text() == "a (1 seed)"
