"""What a run says while it trains: a line and a progress bar on the terminal, CSV and JSONL on
disk. Those for other programs are in board_loggers.py.

Every logger is a callback: ``logger(agent, record)`` after each update. ``Loggers`` bundles those
of a run.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from .._base.arguments import check_count
from .agent import Agent
from .record import Record

TITLES = 40  # lines between the titles of the columns


class Logger:
    """A callback that shows or writes down what every update did."""

    def __call__(self, agent: Agent, record: Record) -> None:
        """Take an update."""
        raise NotImplementedError

    def close(self) -> None:
        """End the progress bar, or close the file."""
        raise NotImplementedError


class ConsoleLogger(Logger):
    """One line of a table per update; on a terminal, a progress bar under it."""

    def __init__(
        self,
        total_steps: int,
        *,
        every: int = 1,
        stream: TextIO | None = None,
        bar: bool | None = None,
    ) -> None:
        check_count("every", every)
        self.stream = stream or sys.stderr
        self.every, self.goal = every, total_steps
        show = self.stream.isatty() if bar is None else bar
        self.bar = _progress_bar(total_steps, self.stream) if show else None
        self.begin = time.perf_counter()
        self.first: int | None = None
        self.lines = 0

    def __call__(self, agent: Agent, record: Record) -> None:
        if self.first is None:  # a resumed run starts above zero
            self.first = agent.steps - record["collected"]
        done = agent.steps - self.first
        rate = done / (time.perf_counter() - self.begin)
        left = max(0, self.goal - done) / rate
        if record["update"] % self.every == 0:
            if self.lines % TITLES == 0:
                self._write(header())
            self.lines += 1
            self._write(line(record, left))
        if math.isfinite(record.get("eval_return", math.nan)):
            self._write(evaluation_line(record))
        if self.bar is not None:
            self.bar.set_postfix_str(f"return {record['return']:.1f}, kl {record['kl']:.4f}")
            self.bar.update(min(done, self.goal) - self.bar.n)

    def _write(self, text: str) -> None:
        if self.bar is None:
            print(text, file=self.stream, flush=True)
        else:
            self.bar.write(text, file=self.stream)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _progress_bar(total: int, stream: TextIO) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=total, file=stream, unit=" steps", unit_scale=True, dynamic_ncols=True)


COLUMNS = (  # title in two lines, and width
    ("", "update", 6),
    ("", "steps", 14),
    ("mean", "return", 12),
    ("KL", "of update", 10),
    ("KL", "limit", 10),
    ("policy", "entropy", 9),
    ("critic", "explains", 10),
    ("steps", "per second", 11),
    ("time in", "learner", 8),
    ("time", "left", 9),
)


def header() -> str:
    """The titles of the columns of ``line``, in two lines."""
    rows = ("".join(f"{column[k]:>{column[2]}}" for column in COLUMNS) for k in (0, 1))
    return "\n".join(rows)


def line(record: Record, left: float = math.nan) -> str:
    """The update in one line of at most 100 characters: where it is, how well, how far it moved,
    how fast, and with how many seconds left. A policy that did not move has the reason in place of
    its KL.
    """
    value = record["return"]
    moved = f"{record['kl']:10.4f}{record['max_kl']:10.4f}"
    if math.isnan(record["max_kl"]):
        moved = f"{record['kl']:10.4f}{'none':>10}"
    if record["reason"] != "accepted":
        moved = f"{record['reason']:>20}"
    end = "" if math.isnan(left) else f"{clock(left):>9}"
    return (
        f"{record['update']:6d}{record['steps']:14,}"
        f"{value:{'12.2f' if abs(value) < 1e8 else '12.3g'}}{moved}{record['entropy']:9.2f}"
        f"{record['explained_variance']:10.2f}{record['steps_per_second']:11,.0f}"
        f"{100 * record['learner_share']:6.0f} %{end}"
    )


def evaluation_line(record: Record) -> str:
    """What an ``EvalCallback`` found after the update."""
    words = f"evaluation: return {record['eval_return']:.2f} +- {record['eval_std']:.2f}"
    best = record["eval_best"]
    return f"{words}, the best so far" if record["eval_return"] == best else f"{words}, {best=:.2f}"


def clock(seconds: float) -> str:
    """h:mm:ss of a duration."""
    whole = round(seconds) if math.isfinite(seconds) else 0
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


class LogFile:
    """A text file that lines are appended to; one that a kill cut short is ended first.

    What cannot be written raises an ``OSError`` that names the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            _end_cut_line(path)
        self.file = open(path, "a", newline="")  # noqa: SIM115 (closed by close)

    def write(self, text: str) -> None:
        try:
            self.file.write(text)
            self.file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # write has said so
            self.file.close()


def _end_cut_line(path: Path) -> None:
    """Keep the whole lines of a file, and of a CSV row without an end its whole cells. What is kept
    is not written anew: nothing that happens on the way can lose it.
    """
    with open(path, "rb+") as file:
        data = file.read()
        kept, end = _complete_part(data) if path.suffix == ".csv" else (data.rfind(b"\n") + 1, b"")
        if kept != len(data):
            file.truncate(kept)
        if end:
            file.seek(kept)
            file.write(end)


def _complete_part(data: bytes) -> tuple[int, bytes]:
    """How much of a CSV to keep, and what to end it by: a last row without an end ends after its
    last whole cell.
    """
    begin = data.rfind(b"\n") + 1
    end = data.rfind(b",", begin) + 1
    if begin in (0, len(data)) or end == 0:  # a header without an end names no columns
        return begin, b""
    return end, b"\r\n"


class CsvLogger(Logger):
    """``progress.csv``: one row per update, one column per name; appends when a run is resumed."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.file = LogFile(Path(directory) / "progress.csv")
        self.columns = _columns_of(self.file.path)

    def __call__(self, agent: Agent, record: Record) -> None:
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        if self.columns is None:
            self.columns = list(record)
            rows.writerow(self.columns)
        rows.writerow([record.get(name, "") for name in self.columns])
        self.file.write(text.getvalue())

    def close(self) -> None:
        self.file.close()


def _columns_of(path: Path) -> list[str] | None:
    if not path.is_file():
        return None
    with open(path, newline="") as file:
        return next(csv.reader(file), None)


class JsonLogger(Logger):
    """``progress.jsonl``: one object per update; numbers that are not finite become null."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.file = LogFile(Path(directory) / "progress.jsonl")

    def __call__(self, agent: Agent, record: Record) -> None:
        self.file.write(json.dumps({name: _finite(value) for name, value in record.items()}) + "\n")

    def close(self) -> None:
        self.file.close()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Loggers:
    """Several loggers as one callback; closes them all at the end of a ``with`` block."""

    def __init__(self, *loggers: Logger) -> None:
        self.loggers = list(loggers)

    def __call__(self, agent: Agent, record: Record) -> None:
        """Pass an update on to every logger."""
        for logger in self.loggers:
            logger(agent, record)

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as stack:  # closes all, whatever one of them raises
            for logger in self.loggers:
                stack.callback(logger.close)


def read_progress(path: str | os.PathLike[str]) -> dict[str, list[float]]:
    """Columns of a run's ``progress.csv`` (or of the directory that holds it); text and gaps become
    NaN.

    A resumed run repeats the updates after its checkpoint; the later row of each update counts.
    """
    path = Path(path)
    file = path / "progress.csv" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"run: expected a run directory with progress.csv, got {path}")
    data = file.read_bytes()
    kept, end = _complete_part(data)
    try:
        text = io.StringIO((data[:kept] + end).decode(), newline="")
    except UnicodeDecodeError:
        raise ValueError(f"run: expected a run's progress.csv, got {file}, not a text") from None
    rows = {row["update"]: row for row in csv.DictReader(text) if row.get("update")}
    if not rows:
        raise ValueError(f"run: expected at least one update in {file}, got none")
    ordered = sorted(rows.values(), key=lambda row: int(row["update"]))
    return {name: [_number(row[name]) for row in ordered] for name in ordered[0]}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
