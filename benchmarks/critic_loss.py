"""Do larger minibatches and Gauss-Newton fit the critic as well as sb3 with minibatches of 128?

TRPO runs record consecutive batches (observations as the nets see them, lambda-returns). Every
contender then follows the same batches from the same weights: held-out loss on a batch before it is
fitted, training loss after, each over the variance of the batch's targets; means over all but the
first batches, then mean and standard error over seeds, also of the paired difference to sb3. Times
are CPU times of one thread.

    python benchmarks/critic_loss.py --out benchmarks/results/MACHINE/critic_loss.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trpo_fast import TRPO
from trpo_fast.bench.opponents import Setup
from trpo_fast.bench.opponents.sb3_learner import Sb3Critic
from trpo_fast.bench.report import environment
from trpo_fast.learner.critic import Critic

ENVS = ("Hopper-v5", "HalfCheetah-v5")
ROWS = (2048,)  # an update, from 8 environments
BATCHES, WARM = 12, 4  # recorded; of those not counted
HIDDEN = (64, 64)
OURS: dict[str, dict[str, Any]] = {
    "128": {"minibatch": 128, "learning_rate": 1e-3},
    "256, lr 2e-3": {"minibatch": 256, "learning_rate": 2e-3},
    "512, lr 3e-3": {"minibatch": 512, "learning_rate": 3e-3},
    "1024, lr 4e-3": {"minibatch": 1024, "learning_rate": 4e-3},
    "1024, lr 8e-3": {"minibatch": 1024, "learning_rate": 8e-3},
    "1024, lr 6e-3, 15 epochs": {"minibatch": 1024, "learning_rate": 6e-3, "epochs": 15},
    "1024, lr 4e-3, 20 epochs": {"minibatch": 1024, "learning_rate": 4e-3, "epochs": 20},
    "gauss_newton": {"method": "gauss_newton"},
    "gauss_newton, every row": {"method": "gauss_newton", "fraction": 1.0},
}


@dataclass
class Contender:
    """What fits and predicts, and what it left on every batch."""

    fit: Callable[[Tensor, Tensor], Any]
    predict: Callable[[Tensor], Tensor]
    train: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class Recorder(TRPO):
    """A run that keeps what its critic was fitted to."""

    def fit_critic(self, obs: Tensor, returns: Tensor) -> float:
        self.__dict__.setdefault("batches", []).append((obs.clone(), returns.clone()))
        return super().fit_critic(obs, returns)


def record(env: str, rows: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    agent = Recorder(env, num_envs=8, rows_per_update=rows, seed=seed, hidden=HIDDEN)
    agent.learn(BATCHES * rows)
    agent.close()
    return agent.__dict__["batches"][:BATCHES]


def contenders(batches: list[tuple[Tensor, Tensor]], seed: int) -> dict[str, Contender]:
    """All of them with the same first weights."""
    obs, returns = batches[0]
    found: dict[str, Contender] = {}
    for name, settings in OURS.items():
        torch.manual_seed(seed)
        critic = Critic(obs.shape[1], HIDDEN, backend="cpu", **settings)
        generator = torch.Generator().manual_seed(seed)
        fit = lambda o, r, c=critic, g=generator: c.fit(o, r, generator=g)  # noqa: E731
        found[name] = Contender(fit, critic.values)
    torch.manual_seed(seed)
    weights = [p.detach().clone() for p in Critic(obs.shape[1], HIDDEN).net.net.parameters()]
    setup = Setup([*weights, torch.zeros(1)], obs, "gaussian", 0.1)
    sb3 = Sb3Critic(setup, weights, returns, 10, 128)
    np.random.seed(seed)

    def fit_sb3(o: Tensor, r: Tensor) -> None:
        sb3.fill(o, r)
        sb3.fit()

    return {"sb3": Contender(fit_sb3, sb3.predict), **found}


def follow(contender: Contender, obs: Tensor, returns: Tensor, counted: bool) -> None:
    def loss() -> float:
        return float((contender.predict(obs) - returns).square().mean() / returns.var())

    before, begin = loss(), time.process_time()
    contender.fit(obs, returns)
    if counted:
        contender.seconds.append(time.process_time() - begin)
        contender.held_out.append(before)
        contender.train.append(loss())


def spread(values: list[float]) -> dict[str, float]:
    error = statistics.stdev(values) / len(values) ** 0.5
    return {"mean": round(statistics.fmean(values), 4), "standard_error": round(error, 4)}


def measure(env: str, rows: int, seeds: int) -> list[dict[str, Any]]:
    runs = []
    for seed in range(seeds):
        batches = record(env, rows, seed)
        runs.append(contenders(batches, seed))
        for at, (obs, returns) in enumerate(batches):
            for contender in runs[-1].values():
                follow(contender, obs, returns, at >= WARM)
    found = []
    for name in runs[0]:
        mine, theirs = [run[name] for run in runs], [run["sb3"] for run in runs]
        seconds = [s for run in mine for s in run.seconds]
        row: dict[str, Any] = {"env": env, "rows": rows, "seeds": seeds, "contender": name}
        row["median_ms"] = round(1e3 * statistics.median(seconds), 2)
        their_seconds = [s for run in theirs for s in run.seconds]
        row["speedup"] = round(statistics.median(their_seconds) / statistics.median(seconds), 2)
        for kind in ("train", "held_out"):
            ours = [statistics.fmean(getattr(run, kind)) for run in mine]
            sb3 = [statistics.fmean(getattr(run, kind)) for run in theirs]
            row[kind] = spread(ours)
            row[f"{kind}_over_sb3"] = spread([a / b - 1.0 for a, b in zip(ours, sb3, strict=True)])
        found.append(row)
    return found


def line(row: dict[str, Any]) -> str:
    text = f"{row['env']:15} {row['rows']:6} {row['contender']:26} {row['median_ms']:7.2f} ms "
    text += f"{row['speedup']:5.1f}x"
    for kind in ("train", "held_out"):
        value, over = row[kind], row[f"{kind}_over_sb3"]
        text += f"   {kind} {value['mean']:.4f} +- {value['standard_error']:.4f}"
        text += f" ({100 * over['mean']:+.1f} +- {100 * over['standard_error']:.1f} %)"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", nargs="+", default=list(ENVS))
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: list[dict[str, Any]] = []
    for env in options.env:
        for rows in options.rows:
            found += (part := measure(env, rows, options.seeds))
            print("\n".join(map(line, part)), flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        document = {"environment": environment("cpu"), "rows": found}
        options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
