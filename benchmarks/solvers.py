"""Which solver learns best: whole training runs over solvers, dampings and seeds, at equal steps.

    python benchmarks/solvers.py run --study screen     # adds the runs that are missing
    python benchmarks/solvers.py table                  # the tables of README.md

Every run that was begun counts: solvers, tasks and seeds are fixed below, and a finished run is one
row of results/learning/solvers/STUDY.json, with its curve. Runs that are there are not made again,
so a study can be interrupted. The score of a run is the mean return of the episodes that ended in
its last tenth; that of a solver the mean over seeds, with a 95 % interval over them.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from marked import fill

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "learning" / "solvers"
README = HERE / "README.md"
POINTS = 20  # of a run's curve

PLAIN = {"cg_iterations": 10, "damping": 0.1}
SOLVERS: dict[str, dict[str, Any]] = {"plain k=10, 0.1": PLAIN} | {
    f"kfac k={k}, {damping}": {"preconditioner": "kfac", "cg_iterations": k, "damping": damping}
    for k in (2, 3, 4)
    for damping in (0.1, 0.3, 1.0)
}


class Study(NamedTuple):
    """Tasks, seeds and solvers that are all run against each other."""

    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    solvers: dict[str, dict[str, Any]]


UPDATES = {
    f"{n} a rollout": PLAIN | ({} if n == 1 else {"updates_per_rollout": n}) for n in (1, 2, 4)
}
STUDIES = {
    "screen": Study(("Hopper-v5", "HalfCheetah-v5"), (100, 101), 200_000, SOLVERS),
    "confirm": Study(
        ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5"),
        (200, 201, 202, 203, 204),
        500_000,
        # The best of the screen on its worse task, and on average, as shares of plain CG's scores.
        {name: SOLVERS[name] for name in ("plain k=10, 0.1", "kfac k=2, 0.1", "kfac k=2, 1.0")},
    ),
    "updates": Study(("Hopper-v5", "HalfCheetah-v5"), (300, 301, 302), 200_000, UPDATES),
}


class Run(NamedTuple):
    """One training run of a study."""

    task: str
    solver: str
    seed: int

    def recorded(self, rows: list[dict[str, Any]]) -> bool:
        return any((row["task"], row["solver"], row["seed"]) == self for row in rows)


def missing(study: Study, rows: list[dict[str, Any]]) -> list[Run]:
    """What has not been run yet: every solver on one seed of a task before the next seed."""
    runs = [
        Run(task, solver, seed)
        for seed in study.seeds
        for task in study.tasks
        for solver in study.solvers
    ]
    return [run for run in runs if not run.recorded(rows)]


def train(job: tuple[Run, Study]) -> dict[str, Any]:
    """One run on one thread, as a row of the study's results."""
    import torch

    from trpo_fast import TRPO

    run, study = job
    torch.set_num_threads(1)
    returns: list[tuple[int, float]] = []  # steps, and the return of an episode that ended there
    products: list[int] = []

    def note(agent: TRPO, record: dict[str, Any]) -> None:
        returns.extend((agent.steps, value) for value in agent.recent_returns)
        agent.recent_returns.clear()
        products.append(int(record["cg_iterations"]))

    begin = time.perf_counter()
    agent = TRPO(run.task, seed=run.seed, num_envs=8, device="cpu", **study.solvers[run.solver])
    agent.learn(study.steps, callbacks=[note])
    agent.close()
    return {
        "task": run.task,
        "solver": run.solver,
        "seed": run.seed,
        "steps": study.steps,
        "score": round(mean_return(returns, 0.9 * study.steps, math.inf), 1),
        "curve": list(curve(returns, study.steps)),
        "products": round(statistics.mean(products), 2),
        "seconds": round(time.perf_counter() - begin, 1),
    }


def mean_return(returns: list[tuple[int, float]], begin: float, end: float) -> float:
    """Of the episodes that ended after ``begin`` and at ``end`` at the latest."""
    found = [value for step, value in returns if begin < step <= end]
    return statistics.mean(found) if found else math.nan


def curve(returns: list[tuple[int, float]], steps: int) -> Iterator[float | None]:
    """Mean returns over equal parts of a run; None where no episode ended."""
    for i in range(POINTS):
        value = mean_return(returns, i * steps / POINTS, (i + 1) * steps / POINTS)
        yield None if math.isnan(value) else round(value, 1)


def read(name: str, results: Path) -> list[dict[str, Any]]:
    path = results / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else []


def run_study(name: str, results: Path, jobs: int) -> None:
    """Make the runs that are missing, and write each as soon as it has ended."""
    rows = read(name, results)
    todo = [(run, STUDIES[name]) for run in missing(STUDIES[name], rows)]
    results.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=1) as pool:
        for row in pool.imap_unordered(train, todo):
            rows.append(row)
            rows.sort(key=lambda r: (r["task"], list(STUDIES[name].solvers).index(r["solver"])))
            text = ",\n".join(json.dumps(row) for row in rows)
            (results / f"{name}.json").write_text(f"[\n{text}\n]\n")
            print(f"{row['task']} {row['solver']} seed {row['seed']}: {row['score']}", flush=True)


# Two-sided 95 % quantiles of Student's t by degrees of freedom, for intervals over few seeds.
T_95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def interval(scores: list[float]) -> str:
    """Mean and half width of its 95 % interval."""
    mean = statistics.mean(scores)
    if len(scores) < 2:
        return f"{mean:.0f}"
    half = T_95[len(scores) - 1] * statistics.stdev(scores) / math.sqrt(len(scores))
    return f"{mean:.0f} ± {half:.0f}"


def table(name: str, results: Path) -> str:
    """A line for every solver: its score on every task, and the products of its solves."""
    study, rows = STUDIES[name], read(name, results)
    head = f"| solver | products | {' | '.join(study.tasks)} |"
    lines = [head, "|---" * (2 + len(study.tasks)) + "|"]
    for solver in study.solvers:
        own = [row for row in rows if row["solver"] == solver]
        if not own:
            continue
        cells = []
        for task in study.tasks:
            scores = [row["score"] for row in own if row["task"] == task]
            found = f"{interval(scores)} ({len(scores)})" if scores else "not measured yet"
            cells.append(found)
        products = statistics.mean(row["products"] for row in own)
        lines.append(f"| {solver} | {products:.1f} | {' | '.join(cells)} |")
    steps = f"{study.steps // 1000}k steps, seeds {', '.join(map(str, study.seeds))}"
    return f"{steps}; in brackets the runs.\n\n" + "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--study", choices=list(STUDIES), default="screen")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a thread each")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.command == "run":
        run_study(options.study, options.out, options.jobs)
        return
    page = README.read_text()
    for name in STUDIES:
        text = table(name, options.out)
        print(f"{name}: {text}\n")
        if options.out == RESULTS:
            page = fill(page, f"solvers-{name}", text + "\n")
    if options.out == RESULTS:
        README.write_text(page)


if __name__ == "__main__":
    main()
