"""Learning curves: whole runs over seeds, evaluated as they go, and the table beside the published
ones.

    python benchmarks/learning.py run --env Hopper-v5 --seeds 0 1 2   # one row; can be interrupted
    python benchmarks/learning.py collect   # runs -> results/learning/presets/ENV.json
    python benchmarks/learning.py table     # the table of README.md, pictures/learning.png

A run is the directory of ``trpo-fast train`` plus ``evaluation.csv`` (deterministic episodes at
regular steps) and ``timing.json``. ``learning_table.py`` says what the columns of the table are.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import torch
from learning_table import collect, draw, read_rows, table
from marked import fill

from trpo_fast import TRPO, evaluate
from trpo_fast.cli.commands import CHECKPOINT
from trpo_fast.train.config import make_config, write_toml
from trpo_fast.train.loggers import ConsoleLogger, CsvLogger, Loggers

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "learning" / "presets"
PICTURE = HERE / "pictures" / "learning.png"


class Evaluator:
    """Callback: ten deterministic episodes every so many steps, into evaluation.csv."""

    def __init__(self, directory: Path, every: int, episodes: int, last: int) -> None:
        self.path, self.every, self.episodes = directory / "evaluation.csv", every, episodes
        self.last = last  # the policy of the last update is evaluated as well
        self.seen = {int(row["steps"]) // every for row in read_rows(self.path)}
        self.seen.add(0)

    def __call__(self, agent: TRPO, record: dict[str, Any]) -> None:
        due = agent.steps // self.every
        if due in self.seen and agent.steps < self.last:
            return
        self.seen.add(due)
        result = evaluate(agent, self.episodes)
        fresh = not self.path.exists()
        with open(self.path, "a", newline="") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(["steps", "return", "std"])
            writer.writerow([agent.steps, result.mean, result.std])


def note_time(path: Path, wall: float, cpu: float) -> None:
    """Add to what earlier processes of the same run took."""
    before = json.loads(path.read_text()) if path.exists() else {"wall": 0.0, "cpu": 0.0}
    total = {"wall": before["wall"] + wall, "cpu": before["cpu"] + cpu}
    path.write_text(json.dumps(total) + "\n")


def run_seed(env: str, seed: int, options: argparse.Namespace) -> None:
    directory = options.runs / env / f"{options.label}-{seed}"
    directory.mkdir(parents=True, exist_ok=True)
    saved = directory / CHECKPOINT
    if saved.exists():
        agent = TRPO.load(saved)
    else:
        agent = TRPO(env, config=make_config(env, file=options.config, seed=seed))
        write_toml(agent.config, directory / "config.toml")
    left = options.steps - agent.steps
    if left <= 0:
        return
    console = ConsoleLogger(left, every=50, bar=False)
    evaluator = Evaluator(directory, options.every, options.episodes, options.steps)
    begin, cpu = time.perf_counter(), time.process_time()
    with Loggers(console, CsvLogger(directory)) as log:
        agent.learn(left, callbacks=[log, evaluator], checkpoint_path=saved, checkpoint_every=25)
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    note_time(directory / "timing.json", wall, cpu)
    print(f"{env} seed {seed}: {wall:.0f} s, {cpu:.0f} s of a core")
    agent.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["run", "collect", "table"])
    parser.add_argument("--runs", type=Path, default=Path("runs/learning"))
    parser.add_argument("--env", nargs="+", default=["Hopper-v5"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=50_000, help="steps between evaluations")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--config", type=Path, help="TOML of settings over the preset")
    parser.add_argument("--label", default="preset", help="name of these settings")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.command == "run":
        for seed in options.seeds:
            for env in options.env:
                run_seed(env, seed, options)
    elif options.command == "collect":
        collect(options.runs, options.label, options.out)
    else:
        text = table(options.out)
        print(text)
        draw(options.out, PICTURE if options.out == RESULTS else options.out / "curves.png")
        if options.out == RESULTS:
            page = HERE / "README.md"
            page.write_text(fill(page.read_text(), "learning", text + "\n"))


if __name__ == "__main__":
    main()
