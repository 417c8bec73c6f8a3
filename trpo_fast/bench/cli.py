"""``trpo-fast bench SUITE``: run a suite, print its table, optionally write the JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from .._base.arguments import check_choice, check_number, integer
from .._base.command_checks import check_size, working_device
from ..backends.registry import registry
from .cases import CASE_NETS, CASES, DEFAULT_CASES, RECORDED_CASES
from .report import Row, machine_name, merge, read_json, sgemm_range, table, write_json
from .run import Options, Outcome, run
from .suite import GRAPH
from .suites import GROUPS

SUITES = (
    "fvp: one Fisher-vector product; cg: a solve by conjugate gradient, of k products and to a "
    "given gain; update: a whole update of the policy; act: choosing actions; critic: fitting the "
    "critic"
)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="trpo-fast bench",
        description="Time the kernels against other ways to compute the same numbers. Every time "
        "is a median over interleaved calls and stands beside its error against float64.",
    )
    p.add_argument("suite", choices=list(GROUPS), help=SUITES)
    p.add_argument(
        "--case",
        nargs="+",
        choices=list(CASES),
        help=f"nets, by name: {CASE_NETS} (default: {' '.join(DEFAULT_CASES)}, and for cg also "
        f"{' '.join(RECORDED_CASES)}, batches from training)",
    )
    p.add_argument(
        "--backend",
        nargs="+",
        help="backends of trpo_fast to time; cuda_graph: the CUDA kernels' call as a CUDA graph, "
        "replayed (default: all that serve)",
    )
    p.add_argument(
        "--precision",
        nargs="+",
        help="those of trpo_fast's backends to time (default: all that each has)",
    )
    p.add_argument("--opponents", nargs="+", help="names, 'all' (default) or 'none'")
    p.add_argument("--iterations", type=integer, default=10, help="CG iterations k")
    p.add_argument("--threads", type=integer, nargs="+", help="thread counts (default: torch's)")
    p.add_argument(
        "--busy", type=integer, default=0, metavar="N", help="time again beside N busy processes"
    )
    p.add_argument("--rows", type=integer, help="cap on the rows of every case")
    p.add_argument("--seconds", type=float, default=2.0, help="time per contender and case")
    p.add_argument("--turns", type=integer, default=5, help="turns per contender, at least")
    p.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu or cuda (default: cuda where there is one)",
    )
    p.add_argument("--json", type=Path, help="file to write, or a folder: MACHINE/SUITE.json in it")
    p.add_argument(
        "--append", action="store_true", help="keep the rows of other cases in the JSON file"
    )
    return p


def _opponents(given: list[str] | None) -> list[str] | None:
    if given is None or given == ["all"]:
        return None
    return [] if given == ["none"] else given


def _default_cases(suite: str) -> tuple[str, ...]:
    """Batches from training say how many products a solve needs, and nothing else."""
    return DEFAULT_CASES + (RECORDED_CASES if suite == "cg" else ())


def _check(arguments: argparse.Namespace) -> None:
    """Before anything runs; the cases and the suite are argparse's to check."""
    working_device(arguments.device)
    for name in ("iterations", "turns"):
        check_size(name, getattr(arguments, name))
    if arguments.rows is not None:
        check_size("rows", arguments.rows, least=2)
    for threads in arguments.threads or ():
        check_size("threads", threads)
    check_size("busy", arguments.busy, least=0)
    check_number("seconds", arguments.seconds, least=0.0)
    for name in arguments.backend or ():
        check_choice("backend", name, (*registry(), GRAPH))
    known = dict.fromkeys(p for backend in registry().values() for p in backend.precisions)
    for name in arguments.precision or ():
        check_choice("precision", name, tuple(known))


def main(argv: list[str]) -> int:
    arguments = parser().parse_args(argv)
    _check(arguments)
    options = Options(
        cases=arguments.case or _default_cases(arguments.suite),
        backends=arguments.backend,
        precisions=arguments.precision,
        opponents=_opponents(arguments.opponents),
        iterations=arguments.iterations,
        threads=arguments.threads or (None,),
        busy=arguments.busy,
        rows=arguments.rows,
        seconds=arguments.seconds,
        turns=arguments.turns,
        device=arguments.device,
    )
    write = _writer(arguments)
    outcome = run(
        arguments.suite, options, say=lambda line: print(line, file=sys.stderr), keep=write
    )
    print(table(outcome.rows))
    for name, reason in outcome.skipped.items():
        print(f"skipped {name}: {reason}")
    if arguments.json is not None:
        print(f"written: {_target(arguments, outcome)}")
    return 0 if outcome.rows else 1


def _target(arguments: argparse.Namespace, outcome: Outcome) -> Path:
    path: Path = arguments.json
    if path.suffix == ".json":
        return path
    return path / machine_name(outcome.environment) / f"{arguments.suite}.json"


def _writer(arguments: argparse.Namespace) -> Callable[[Outcome], None]:
    """Writes the rows there are, a case at a time: what is measured outlasts what ends the run."""
    earlier: list[tuple[list[Row], dict[str, str]]] = []

    def write(outcome: Outcome) -> None:
        if arguments.json is None:
            return
        path = _target(arguments, outcome)
        if not earlier:
            found = arguments.append and path.exists()
            skipped = json.loads(path.read_text())["skipped"] if found else {}
            earlier.append((read_json(path)[1] if found else [], skipped))
        rows, skipped = merge(earlier[0][0], outcome.rows), {**earlier[0][1], **outcome.skipped}
        header = {**outcome.environment, "sgemm_gflops": sgemm_range(rows)}
        write_json(path, header, rows, skipped)

    return write
