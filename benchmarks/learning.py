"""Learning curves: whole runs over seeds, evaluated as they go, and the table beside the published
ones.

    python benchmarks/learning.py run --env Hopper-v5 --seeds 0 1 2      # one row; interrupted runs
    go on python benchmarks/learning.py table --out benchmarks/results/learning

A run is the directory of ``trpo-fast train`` plus ``evaluation.csv``: deterministic episodes at
regular steps. The table has two metrics, because the published ones differ: ``final`` is the mean
over seeds of the last evaluation, and ``max average`` the largest mean over seeds of any
evaluation.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trpo_fast import TRPO, evaluate
from trpo_fast.commands import CHECKPOINT
from trpo_fast.config import make_config, write_toml
from trpo_fast.logger import ConsoleLogger, CsvLogger, Loggers

# What others publish for their TRPO at 1M steps: tianshou's max average over 10 seeds, rl-zoo's
# single run, sb3-contrib's documented final mean over 3 seeds (their -v3 and -v4 environments).
PUBLISHED: dict[str, dict[str, float]] = {
    "HalfCheetah-v5": {"tianshou": 4471.2, "rl-zoo": 1785.5, "sb3-contrib": 1803.0},
    "Ant-v5": {"tianshou": 2866.7, "rl-zoo": 4982.3, "sb3-contrib": 3554.0},
    "Hopper-v5": {"tianshou": 2046.0, "rl-zoo": 3618.4, "sb3-contrib": 3372.0},
    "Walker2d-v5": {"tianshou": 3826.7, "rl-zoo": 4933.1, "sb3-contrib": 4502.0},
    "Swimmer-v5": {"tianshou": 40.9, "rl-zoo": 365.7, "sb3-contrib": 359.0},
    "Reacher-v5": {"tianshou": -5.1},
    "InvertedPendulum-v5": {"tianshou": 1000.0},
    "InvertedDoublePendulum-v5": {"tianshou": 8435.2},
    "Pendulum-v1": {"rl-zoo": -174.6},
    "Acrobot-v1": {"rl-zoo": -83.1},
    "MountainCarContinuous-v0": {"rl-zoo": 92.5},
    "LunarLander-v3": {"rl-zoo": 133.2},
}


class Evaluator:
    """Callback: ten deterministic episodes every so many steps, into evaluation.csv."""

    def __init__(self, directory: Path, every: int, episodes: int) -> None:
        self.path, self.every, self.episodes = directory / "evaluation.csv", every, episodes
        self.seen = {int(row["steps"]) // every for row in read_rows(self.path)}

    def __call__(self, agent: TRPO, record: dict[str, Any]) -> None:
        if agent.steps // self.every in self.seen:
            return
        self.seen.add(agent.steps // self.every)
        result = evaluate(agent, self.episodes)
        fresh = not self.path.exists()
        with open(self.path, "a", newline="") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(["steps", "return", "std"])
            writer.writerow([agent.steps, result.mean, result.std])


def read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


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
    evaluator = Evaluator(directory, options.every, options.episodes)
    begin = time.perf_counter()
    with Loggers(console, CsvLogger(directory)) as log:
        agent.learn(left, callbacks=[log, evaluator], checkpoint_path=saved, checkpoint_every=25)
    print(f"{env} seed {seed}: {time.perf_counter() - begin:.0f} s, {evaluate(agent, 10)}")
    agent.close()


def summarise(env: str, label: str, runs: Path) -> dict[str, Any] | None:
    """The row of an environment, from whatever seeds have evaluations."""
    curves, seeds = [], []
    for directory in sorted((runs / env).glob(f"{label}-*")):
        rows = read_rows(directory / "evaluation.csv")
        if rows:
            curves.append([float(row["return"]) for row in rows])
            seeds.append(int(directory.name.rpartition("-")[2]))
    if not curves:
        return None
    points = min(len(curve) for curve in curves)
    grid = np.array([curve[:points] for curve in curves])
    best = int(grid.mean(0).argmax())
    return {
        "suite": "learning",
        "env": env,
        "label": label,
        "seeds": seeds,
        "evaluations": points,
        "final": float(grid[:, -1].mean()),
        "final_std": float(grid[:, -1].std()),
        "max_average": float(grid[:, best].mean()),
        "max_average_std": float(grid[:, best].std()),
        "published": PUBLISHED.get(env, {}),
        "curves": grid.tolist(),
    }


def table(options: argparse.Namespace) -> None:
    rows = []
    for directory in sorted(options.runs.iterdir()):
        labels = sorted({run.name.rpartition("-")[0] for run in directory.iterdir()})
        rows += [row for label in labels if (row := summarise(directory.name, label, options.runs))]
    print("| env | settings | seeds | final | max average | published |\n|---|---|---|---|---|---|")
    for row in rows:
        published = ", ".join(f"{who} {value:g}" for who, value in row["published"].items())
        print(
            f"| {row['env']} | {row['label']} | {len(row['seeds'])} "
            f"| {row['final']:.1f} ± {row['final_std']:.1f} "
            f"| {row['max_average']:.1f} ± {row['max_average_std']:.1f} | {published} |"
        )
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "learning.json").write_text(json.dumps(rows, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--runs", type=Path, default=Path("runs/learning"))
    parser.add_argument("--env", nargs="+", default=["Hopper-v5"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=50_000, help="steps between evaluations")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--config", type=Path, help="TOML of settings over the preset")
    parser.add_argument("--label", default="preset", help="name of these settings in the table")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.command == "table":
        table(options)
        return
    for env in options.env:
        for seed in options.seeds:
            run_seed(env, seed, options)


if __name__ == "__main__":
    main()
