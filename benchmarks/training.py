"""Training throughput against sb3-contrib's TRPO: the same environment, copies, batch and threads,
interleaved in one process; medians of whole ``learn`` calls. On a machine that is not idle, read
the ratio of CPU times with --threads 1: what else runs there hardly touches it.

    python benchmarks/training.py --out benchmarks/results/MACHINE/training.json --note 'idle'

runs every case, writes the figures and puts the table into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from marked import fill

from trpo_fast import TRPO

# name, environment, settings of ours, rows an update; sb3 gets the same copies and rows.
Case = tuple[str, str, dict[str, Any], int]
# Ten epochs for the critic, as sb3-contrib's takes; the preset, which is for returns, takes twenty.
HOPPER: dict[str, Any] = {"critic_epochs": 10, "critic_minibatch": 256, "cg_iterations": 10}
CASES: list[Case] = [
    ("hopper", "Hopper-v5", HOPPER | {"engine": "sync"}, 2048),
    ("hopper-workers", "Hopper-v5", HOPPER | {"engine": "workers"}, 2048),
    ("hopper-25k", "Hopper-v5", HOPPER | {"engine": "sync"}, 25_000),
    ("hopper-25k-workers", "Hopper-v5", HOPPER | {"engine": "workers"}, 25_000),
    ("hopper-async", "Hopper-v5", HOPPER | {"engine": "async"}, 2048),
    ("hopper-envpool", "Hopper-v5", HOPPER | {"engine": "envpool"}, 2048),
    ("hopper-envpool-64", "Hopper-v5", HOPPER | {"engine": "envpool", "num_envs": 64}, 8192),
    ("cartpole", "CartPole-v1", {"engine": "sync"}, 2048),
    ("cartpole-workers", "CartPole-v1", {"engine": "workers"}, 2048),
    ("cartpole-tensor", "CartPole-v1", {"engine": "tensor", "num_envs": 4096}, 131_072),
]
COPIES = 8  # where the settings say nothing
OPPONENTS = {"sb3": "DummyVecEnv", "sb3_processes": "SubprocVecEnv"}  # the latter beside processes
README = Path(__file__).parent / "README.md"


class Ours:
    """Our trainer on a case; every update leaves its record."""

    def __init__(self, case: Case) -> None:
        _, env, settings, rows = case
        self.agent = TRPO(env, **{"num_envs": COPIES, **settings}, rows_per_update=rows, seed=0)
        self.processes = getattr(getattr(self.agent.envs, "venv", None), "processes", [])
        self.records: list[dict[str, Any]] = []

    def learn(self, steps: int) -> int:
        before = self.agent.steps
        self.agent.learn(steps, callbacks=[lambda agent, record: self.records.append(record)])
        return self.agent.steps - before

    def close(self) -> None:
        self.agent.close()


class Theirs:
    """sb3-contrib's TRPO with gymnasium's environments in a vector environment of sb3's."""

    def __init__(self, case: Case, kind: str) -> None:
        import sb3_contrib
        from stable_baselines3.common import vec_env
        from stable_baselines3.common.env_util import make_vec_env

        _, env, settings, rows = case
        copies = settings.get("num_envs", COPIES)
        self.venv = make_vec_env(env, copies, seed=0, vec_env_cls=getattr(vec_env, kind))
        self.processes = getattr(self.venv, "processes", [])
        self.agent = sb3_contrib.TRPO(
            "MlpPolicy", self.venv, n_steps=rows // copies, seed=0, device="cpu"
        )

    def learn(self, steps: int) -> int:
        self.agent.learn(steps, reset_num_timesteps=False)
        return steps

    def close(self) -> None:
        self.venv.close()


def players(case: Case) -> dict[str, Any]:
    """Who takes part in a case; sb3-contrib where it is installed and has such environments."""
    found: dict[str, Any] = {"ours": Ours(case)}
    engine = case[2]["engine"]
    if engine == "tensor":
        return found
    wanted = ["sb3", "sb3_processes"] if engine in ("workers", "async") else ["sb3"]
    try:
        return found | {who: Theirs(case, OPPONENTS[who]) for who in wanted}
    except ImportError:
        return found


def cpu_seconds(processes: list[Any]) -> float:
    """Of this process, all threads, and of the given ones."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def measure(case: Case, updates: int, repeats: int) -> dict[str, Any]:
    name, env, settings, rows = case
    found = players(case)
    rates: dict[str, list[float]] = {who: [] for who in found}
    costs: dict[str, list[float]] = {who: [] for who in found}  # CPU seconds a step
    for repeat in range(repeats + 1):  # the first is a warm-up
        for who, player in found.items():
            begin, cpu = time.perf_counter(), cpu_seconds(player.processes)
            done = player.learn(updates * rows)
            seconds, cpu = time.perf_counter() - begin, cpu_seconds(player.processes) - cpu
            if repeat:
                rates[who].append(done / seconds)
                costs[who].append(cpu / done)
    for player in found.values():
        player.close()
    late = found["ours"].records[updates:]
    row: dict[str, Any] = {
        "suite": "training",
        "case": name,
        "env": env,
        "copies": settings.get("num_envs", COPIES),
        "rows_per_update": rows,
        "backend": late[-1]["backend"],
        "threads": torch.get_num_threads(),
        "processes": 1 + len(found["ours"].processes),
        "steps_per_second": statistics.median(rates["ours"]),
        "steps_per_cpu_second": 1.0 / statistics.median(costs["ours"]),
        "learner_share": statistics.median(r["learner_share"] for r in late),
        "ratio": {},
        "cpu_ratio": {},
    }
    for part in ("env", "act", "update", "critic"):
        row[f"{part}_ms"] = 1e3 * statistics.median(r[f"{part}_seconds"] for r in late)
    for who in found.keys() - {"ours"}:
        rate, cost = statistics.median(rates[who]), statistics.median(costs[who])
        row[f"{who}_steps_per_second"], row[f"{who}_steps_per_cpu_second"] = rate, 1.0 / cost
        row["ratio"][who] = row["steps_per_second"] / rate
        row["cpu_ratio"][who] = row["steps_per_cpu_second"] * cost
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as benchmarks/README.md shows them."""
    lines = [
        "| case | steps/s | times sb3-contrib's | with processes | by CPU time | learner |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio, cpu = row["ratio"], row["cpu_ratio"]
        cells = [
            row["case"],
            f"{row['steps_per_second']:,.0f}".replace(",", " "),
            *(f"{ratio[who]:.1f}" if who in ratio else "" for who in OPPONENTS),
            f"{cpu['sb3']:.1f}" if "sb3" in cpu else "",
            f"{100 * row['learner_share']:.0f} %",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def line(row: dict[str, Any]) -> str:
    """A row for the terminal."""
    ratios = [
        f"{ratio:.1f}x {who} ({row['cpu_ratio'][who]:.1f}x by CPU time)"
        for who, ratio in sorted(row["ratio"].items())
    ]
    return (
        f"{row['case']:<19}{row['steps_per_second']:>11,.0f} steps/s  "
        f"learner {100 * row['learner_share']:3.0f} %  env {row['env_ms']:.1f}  "
        f"act {row['act_ms']:.1f}  update {row['update_ms']:.1f}  "
        f"critic {row['critic_ms']:.1f} ms  {', '.join(ratios)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", action="append", choices=[case[0] for case in CASES])
    parser.add_argument("--updates", type=int, default=3, help="updates per timed call")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--note", default="", help="what else the machine did, for the JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    rows = []
    for case in CASES:
        if not options.case or case[0] in options.case:
            rows.append(measure(case, options.updates, options.repeats))
            print(line(rows[-1]), flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        machine = {"python": platform.python_version(), "torch": torch.__version__}
        machine["note"] = options.note
        options.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
        if not options.case:
            README.write_text(fill(README.read_text(), "training", table(rows)))


if __name__ == "__main__":
    main()
