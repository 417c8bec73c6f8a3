"""What an update costs whose rows lie on several processes: C2's net and rows on two ranks of one
thread each, and in one process of two threads. Times are medians of updates taken in turn.

    python benchmarks/ranks.py [--ranks 2] [--rows 25000] [--repeats 15]
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trpo_fast import Batch, Gaussian, MLPPolicy, flat_params, trpo_update


def problem(rows: int) -> tuple[MLPPolicy, Batch]:
    torch.manual_seed(0)
    policy = MLPPolicy(17, Gaussian(6), (64, 64))
    obs = torch.randn(rows, 17)
    with torch.no_grad():
        params = policy.distribution_params(obs)
        actions = policy.head.sample(params)
        log_probs = policy.head.log_prob(params, actions)
    return policy, Batch(obs, actions, torch.randn(rows), log_probs)


def seconds(policy: MLPPolicy, batch: Batch, **options: Any) -> float:
    theta = flat_params(policy)
    before = theta.clone()
    begun = time.perf_counter()
    info = trpo_update(policy, batch, backend="cpu", **options)
    assert info.accepted
    taken = time.perf_counter() - begun
    theta.copy_(before)
    return taken


def on_a_rank(
    rank: int, ranks: int, rows: int, repeats: int, store: str, turns: Any, said: Any
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    policy, batch = problem(rows)
    part = batch.rows(slice(rank * rows // ranks, (rank + 1) * rows // ranks))
    vector = torch.zeros(policy.spec.size)
    for _ in range(repeats):
        turns.acquire()
        taken = seconds(policy, part, group=dist.group.WORLD)
        begun = time.perf_counter()
        dist.all_reduce(vector)
        if rank == 0:
            said.put((taken, time.perf_counter() - begun))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rows", type=int, default=25_000)
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    turns, said = [context.Semaphore(0) for _ in range(given.ranks)], context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        common = (given.ranks, given.rows, given.repeats, str(Path(folder) / "store"))
        processes = [
            context.Process(target=on_a_rank, args=(rank, *common, turns[rank], said))
            for rank in range(given.ranks)
        ]
        for process in processes:
            process.start()
        torch.set_num_threads(given.ranks)
        policy, batch = problem(given.rows)
        alone, shared, sums = [], [], []
        for _ in range(given.repeats):
            for turn in turns:
                turn.release()
            taken, reduced = said.get()
            shared.append(taken)
            sums.append(reduced)
            alone.append(seconds(policy, batch))
        for process in processes:
            process.join()
    for name, times in (
        (f"one process of {given.ranks} threads", alone),
        (f"{given.ranks} processes of one thread", shared),
        ("one sum over processes", sums),
    ):
        print(f"{name:28} {1e3 * statistics.median(times):8.2f} ms, least {1e3 * min(times):.2f}")


if __name__ == "__main__":
    main()
