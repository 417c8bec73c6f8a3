"""Training throughput against sb3-contrib's TRPO: the same environment, copies, batch and threads,
interleaved in one process; medians of whole ``learn`` calls. On a machine that is not idle, read
the ratio of CPU times with --threads 1: what else runs there hardly touches it.

    python benchmarks/training.py --out benchmarks/results/MACHINE/training.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trpo_fast import TRPO

# name, environment, settings of ours, rows an update; sb3 gets the same copies and rows.
CASES: list[tuple[str, str, dict[str, Any], int]] = [
    ("hopper", "Hopper-v5", {"engine": "sync"}, 2048),
    ("hopper-25k", "Hopper-v5", {"engine": "sync"}, 25_000),
    ("hopper-async", "Hopper-v5", {"engine": "async"}, 2048),
    ("hopper-envpool", "Hopper-v5", {"engine": "envpool"}, 2048),
    ("cartpole", "CartPole-v1", {"engine": "sync"}, 2048),
    ("cartpole-tensor", "CartPole-v1", {"engine": "tensor"}, 131_072),
]


def make_sb3(env: str, copies: int, rows: int) -> Callable[[int], Any] | None:
    """sb3-contrib's TRPO with gymnasium's environments in its own vector environment; None
    without it.
    """
    try:
        import sb3_contrib
        from stable_baselines3.common.env_util import make_vec_env
    except ImportError:
        return None
    venv = make_vec_env(env, copies, seed=0)
    agent = sb3_contrib.TRPO("MlpPolicy", venv, n_steps=rows // copies, seed=0, device="cpu")
    return lambda steps: agent.learn(steps, reset_num_timesteps=False)


def measure(
    case: tuple[str, str, dict[str, Any], int], updates: int, repeats: int
) -> dict[str, Any]:
    name, env, settings, rows = case
    copies = 4096 if settings["engine"] == "tensor" else 8
    ours = TRPO(env, num_envs=copies, rows_per_update=rows, seed=0, **settings)
    records: list[dict[str, Any]] = []

    def learn(steps: int) -> None:
        ours.learn(steps, callbacks=[lambda agent, record: records.append(record)])

    sb3 = None if settings["engine"] == "tensor" else make_sb3(env, copies, rows)
    rates: dict[str, list[float]] = {"ours": [], "sb3": []}
    costs: dict[str, list[float]] = {"ours": [], "sb3": []}  # CPU seconds a step, all threads
    for repeat in range(repeats + 1):  # the first is a warm-up
        for who, call in (("ours", learn), ("sb3", sb3)):
            if call is None:
                continue
            before, begin, cpu = ours.steps, time.perf_counter(), time.process_time()
            call(updates * rows)
            seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
            done = ours.steps - before if who == "ours" else updates * rows
            if repeat:
                rates[who].append(done / seconds)
                costs[who].append(cpu / done)
    ours.close()
    late = records[updates:]
    row: dict[str, Any] = {
        "suite": "training",
        "case": name,
        "env": env,
        "copies": copies,
        "rows_per_update": rows,
        "backend": late[-1]["backend"],
        "threads": torch.get_num_threads(),
        "steps_per_second": statistics.median(rates["ours"]),
        "steps_per_cpu_second": 1.0 / statistics.median(costs["ours"]),
        "learner_share": statistics.median(r["learner_share"] for r in late),
    }
    for part in ("env", "act", "update", "critic"):
        row[f"{part}_ms"] = 1e3 * statistics.median(r[f"{part}_seconds"] for r in late)
    if rates["sb3"]:
        row["sb3_steps_per_second"] = statistics.median(rates["sb3"])
        row["sb3_steps_per_cpu_second"] = 1.0 / statistics.median(costs["sb3"])
        row["ratio"] = {"sb3": row["steps_per_second"] / row["sb3_steps_per_second"]}
        row["cpu_ratio"] = {"sb3": row["steps_per_cpu_second"] / row["sb3_steps_per_cpu_second"]}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", action="append", choices=[case[0] for case in CASES])
    parser.add_argument("--updates", type=int, default=3, help="updates per timed call")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    rows = []
    for case in CASES:
        if options.case and case[0] not in options.case:
            continue
        row = measure(case, options.updates, options.repeats)
        ratio = ""
        if "ratio" in row:
            ratio = f"{row['ratio']['sb3']:5.1f}x sb3 ({row['cpu_ratio']['sb3']:.1f}x by CPU time)"
        print(
            f"{row['case']:<16}{row['steps_per_second']:>12,.0f} steps/s  "
            f"learner {100 * row['learner_share']:3.0f} %  env {row['env_ms']:.1f}  "
            f"act {row['act_ms']:.1f}  update {row['update_ms']:.1f}  "
            f"critic {row['critic_ms']:.1f} ms  {ratio}",
            flush=True,
        )
        rows.append(row)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        machine = {"python": platform.python_version(), "torch": torch.__version__}
        options.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
