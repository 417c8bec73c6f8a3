"""Curves of the algorithms side by side, three seeds each: a JSON in results/learning and a picture
in pictures/ for each comparison.

python benchmarks/compare.py rules     # trpo, npg, kl-penalty and pg on one task
python benchmarks/compare.py vine      # vine against single path at equal simulator steps
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trpo_fast import TRPO
from trpo_fast.cli.plotting import band, group_runs, plot_runs
from trpo_fast.train.config import make_config, write_toml
from trpo_fast.train.loggers import CsvLogger, Loggers

HERE = Path(__file__).parent

# comparison -> (environment, steps, shared settings, what is compared)
COMPARISONS: dict[str, tuple[str, int, dict[str, Any], list[dict[str, Any]]]] = {
    "rules": (
        "CartPole-v1",
        100_000,
        {},
        [
            {"algorithm": "trpo"},
            {"algorithm": "npg"},
            {"algorithm": "kl-penalty"},
            {"algorithm": "pg", "pg_learning_rate": 2.0},  # the best of 0.01, 0.1, 0.5 and 2
        ],
    ),
    "vine": (
        "CartPole-v1",
        100_000,
        {"engine": "tensor", "num_envs": 8, "rows_per_update": 1024, "critic_rows": 1.0}
        | {"critic_epochs": 10, "critic_minibatch": 1024, "fvp_fraction": 1.0},
        # Both take 1024 simulator steps an update: vine 256 of a path and 32 states x 2 x 12.
        [
            {"sampling": "path"},
            {"sampling": "vine", "rows_per_update": 256, "vine_states": 32, "vine_length": 12},
        ],
    ),
}


def train(directory: Path, env: str, steps: int, settings: dict[str, Any]) -> None:
    if (directory / "progress.csv").exists():
        return
    config = make_config(env, **settings)
    directory.mkdir(parents=True, exist_ok=True)
    write_toml(config, directory / "config.toml")
    agent = TRPO(env, config=config)
    with Loggers(CsvLogger(directory)) as log:
        agent.learn(steps, callbacks=[log])
    agent.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("comparison", choices=sorted(COMPARISONS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "learning")
    parser.add_argument("--pictures", type=Path, default=HERE / "pictures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    env, steps, shared, compared = COMPARISONS[options.comparison]
    paths = []
    for changes in compared:
        for seed in range(options.seeds):
            name = "-".join(str(value) for value in changes.values())
            path = options.runs / options.comparison / f"{name}-{seed}"
            train(path, env, steps, {**shared, **changes, "seed": seed})
            paths.append(path)
    for folder in (options.out, options.pictures):
        folder.mkdir(parents=True, exist_ok=True)
    print(plot_runs(paths, options.pictures / f"{options.comparison}.png"))
    rows = []
    for label, runs in group_runs(paths).items():
        _, mean, half = band(runs, "return")
        last = [run["return"][-1] for run in runs]
        rows.append({"label": label, "env": env, "final": last, "mean_curve": mean.tolist()})
        print(f"{label}: {np.mean(last):.1f} +- {half[-1]:.1f}, over the curve {mean.mean():.1f}")
    file = options.out / f"{options.comparison}.json"
    file.write_text(json.dumps({"suite": "compare", "steps": steps, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
