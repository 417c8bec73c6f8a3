"""Runs a suite: gathers the contenders of a case, checks each against float64, times them in turns
with sgemm among them, and makes the rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.problem import BackendUnavailable
from .cases import CASES, DEFAULT_CASES, Workload, make_workload
from .harness import Contender, busy_processes, copy_rate, measure, sgemm, thread_count
from .report import Row, environment, sgemm_range
from .suite import Suite, Timed, solver_of
from .suites import GROUPS, SUITES


@dataclass(frozen=True)
class Options:
    """What to run. ``opponents`` None: every one that is here."""

    cases: Sequence[str] = DEFAULT_CASES
    backends: Sequence[str] | None = None
    precisions: Sequence[str] | None = None  # of ours
    opponents: Sequence[str] | None = None
    iterations: int = 10
    threads: Sequence[int | None] = (None,)
    busy: int = 0
    rows: int | None = None
    seconds: float = 2.0
    turns: int = 5
    device: str = "cpu"


@dataclass
class Outcome:
    """What a run leaves."""

    environment: dict[str, Any]
    rows: list[Row]
    skipped: dict[str, str]


@dataclass
class _Entry:
    contender: Contender
    error: float
    ours: bool
    loss: dict[str, float] | None
    gain: float | None
    products: int | None


def run(
    group: str,
    options: Options,
    say: Callable[[str], None] = print,
    keep: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Every case of ``options`` at every thread count; ``say`` gets a line when one begins,
    ``keep`` what there is after each.
    """
    with thread_count(options.threads[0]):
        copy = round(copy_rate(options.device) / 1e9, 1)
        outcome = Outcome(environment(options.device, copy_gb_per_s=copy), [], {})
    for threads in options.threads:
        with thread_count(threads) as count:
            for name in options.cases:
                for suite in (SUITES[member] for member in GROUPS[group]):
                    if suite.recorded_only and not CASES[name].recorded:
                        continue
                    workload = make_workload(
                        CASES[name], options.device, suite.rows or options.rows
                    )
                    size = f"{workload.rows} rows, P = {workload.size}"
                    say(f"{suite.name} {name}: {size}, {count} threads")
                    _run_case(suite, workload, options, count, outcome)
                    outcome.environment["sgemm_gflops"] = sgemm_range(outcome.rows)
                    keep(outcome)
    return outcome


def _run_case(
    suite: Suite, workload: Workload, options: Options, threads: int, outcome: Outcome
) -> None:
    entries = _gather(suite, workload, options, outcome)
    peak, peak_flops = sgemm(options.device)
    contenders = [entry.contender for entry in entries] + [peak]
    _measure(contenders, options, warm_up=2)
    outcome.rows += _rows(suite.name, suite, workload, options, threads, entries, peak, peak_flops)
    if options.busy:
        alone = peak.median
        for contender in contenders:
            contender.times.clear()
        with busy_processes(options.busy):
            _measure(contenders, options, warm_up=1)
        peak.times[:] = [alone]  # the roofline is the machine's, not its share beside others
        name = f"{suite.name}_busy"
        outcome.rows += _rows(name, suite, workload, options, threads, entries, peak, peak_flops)


def _measure(contenders: list[Contender], options: Options, warm_up: int) -> None:
    measure(
        contenders,
        seconds=options.seconds,
        least=options.turns,
        device=options.device,
        warm_up=warm_up,
    )


def _gather(suite: Suite, workload: Workload, options: Options, outcome: Outcome) -> list[_Entry]:
    entries: list[_Entry] = []
    exact = functools.cache(lambda: suite.exact(workload, options.iterations))
    judge = None if suite.gain is None else suite.gain(workload)

    def add(name: str, precision: str, ours: bool, make: Callable[[], Timed]) -> None:
        label = f"{suite.name}/{workload.case.name}/{name}/{precision}"
        try:
            timed = make()
            error = suite.error(timed, exact)
            gain = None if judge is None else judge(timed.result())
        except BackendUnavailable as reason:
            outcome.skipped[label] = str(reason)
            return
        except Exception as failure:  # such as out of memory: an opponent may fail, ours must not
            if ours:
                raise
            outcome.skipped[label] = f"{type(failure).__name__}: {str(failure).splitlines()[:1]}"
            return
        contender = Contender(name, precision, timed.call, timed.reset)
        entries.append(_Entry(contender, error, ours, timed.loss, gain, timed.products))

    for name, precision in suite.contenders():
        wanted = options.backends is None or solver_of(name)[0] in options.backends
        if wanted and (options.precisions is None or precision in options.precisions):
            make = _bind(suite.own, workload, name, precision, options.iterations)
            add(name, precision, True, make)
    for name, precision in _chosen_opponents(suite, options, outcome.skipped):
        make = _bind(suite.opponent, name, workload, precision, options.iterations)
        add(name, precision, False, make)
    return entries


def _bind(function: Callable[..., Timed], *arguments: Any) -> Callable[[], Timed]:
    return lambda: function(*arguments)


def _chosen_opponents(
    suite: Suite, options: Options, skipped: dict[str, str]
) -> list[tuple[str, str]]:
    """The opponents to run; one that does not run here is named in ``skipped`` with the reason."""
    known = suite.opponents
    names = list(known) if options.opponents is None else list(options.opponents)
    chosen: list[tuple[str, str]] = []
    for name in names:
        if name not in known:
            skipped[name] = f"the suite {suite.name} knows {', '.join(known)}"
            continue
        reason = known[name].support(options.device).why_not
        if options.opponents is None and name == "sb3_replica" and "sb3" in dict(chosen):
            reason = "sb3_contrib itself is installed"
        if reason:
            skipped[name] = reason
            continue
        chosen += [(name, precision) for precision in known[name].precisions(options.device)]
    return chosen


def _rows(
    name: str,
    suite: Suite,
    workload: Workload,
    options: Options,
    threads: int,
    entries: list[_Entry],
    peak: Contender,
    peak_flops: int,
) -> list[Row]:
    rivals = {
        entry.contender.name
        if entry.contender.precision == "fp32"
        else f"{entry.contender.name}/{entry.contender.precision}": entry.contender.median
        for entry in entries
        if not entry.ours
    }
    rows = []
    for entry in entries:
        median = entry.contender.median
        k = options.iterations if entry.products is None else entry.products
        rows.append(
            Row(
                suite=name,
                case=workload.case.name,
                n=workload.rows,
                p=workload.size,
                k=k,
                backend=entry.contender.name,
                precision=entry.contender.precision,
                threads=threads,
                median_us=round(median * 1e6, 3),
                rel_err=float(f"{entry.error:.3g}"),
                flops=suite.flops(workload.case, workload.rows, k),
                peak_flops=round(peak_flops / peak.median),
                ratio={
                    rival: round(v / median, 3) for rival, v in _against(entry, entries, rivals)
                },
                loss=entry.loss,
                gain=None if entry.gain is None else float(f"{entry.gain:.5g}"),
            )
        )
    return rows


def _against(
    entry: _Entry, entries: list[_Entry], rivals: dict[str, float]
) -> Iterator[tuple[str, float]]:
    """What an entry of ours is compared with: the same backend without a preconditioner, and the
    opponents.
    """
    if not entry.ours:
        return
    own, preconditioner = solver_of(entry.contender.name)
    for other in entries if preconditioner else ():
        if (other.contender.name, other.contender.precision) == (own, entry.contender.precision):
            yield "plain", other.contender.median
    yield from rivals.items()
