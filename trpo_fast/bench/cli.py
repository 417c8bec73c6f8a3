"""``trpo-fast bench SUITE``: run a suite, print its table, optionally write the JSON."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from .cases import CASES, DEFAULT_CASES
from .report import machine_name, table, write_json
from .run import Options, run
from .suites import GROUPS


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="trpo-fast bench",
        description="Time the kernels against other ways to compute the same numbers. Every time "
        "is a median over interleaved calls and stands beside its error against float64.",
    )
    p.add_argument("suite", choices=list(GROUPS))
    p.add_argument("--case", nargs="+", choices=list(CASES), default=list(DEFAULT_CASES))
    p.add_argument(
        "--backend", nargs="+", help="backends of trpo_fast to time (default: all that serve)"
    )
    p.add_argument("--opponents", nargs="+", help="names, 'all' (default) or 'none'")
    p.add_argument("--iterations", type=int, default=10, help="CG iterations k")
    p.add_argument("--threads", type=int, nargs="+", help="thread counts (default: torch's)")
    p.add_argument(
        "--busy", type=int, default=0, metavar="N", help="time again beside N busy processes"
    )
    p.add_argument("--rows", type=int, help="cap on the rows of every case")
    p.add_argument("--seconds", type=float, default=2.0, help="time per contender and case")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--json", type=Path, help="file to write, or a folder: MACHINE/SUITE.json in it")
    return p


def _opponents(given: list[str] | None) -> list[str] | None:
    if given is None or given == ["all"]:
        return None
    return [] if given == ["none"] else given


def main(argv: list[str]) -> int:
    arguments = parser().parse_args(argv)
    options = Options(
        cases=arguments.case,
        backends=arguments.backend,
        opponents=_opponents(arguments.opponents),
        iterations=arguments.iterations,
        threads=arguments.threads or (None,),
        busy=arguments.busy,
        rows=arguments.rows,
        seconds=arguments.seconds,
        device=arguments.device,
    )
    outcome = run(arguments.suite, options, say=lambda line: print(line, file=sys.stderr))
    print(table(outcome.rows))
    for name, notes in outcome.notes.items():
        print(f"{name}: {', '.join(f'{key} {value:.4g}' for key, value in notes.items())}")
    for name, reason in outcome.skipped.items():
        print(f"skipped {name}: {reason}")
    if arguments.json is not None:
        path = arguments.json
        if path.suffix != ".json":
            path = path / machine_name(outcome.environment) / f"{arguments.suite}.json"
        write_json(path, outcome.environment, outcome.rows, outcome.skipped, outcome.notes)
        print(f"written: {path}")
    return 0 if outcome.rows else 1
