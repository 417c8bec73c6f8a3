"""Records the batch of an update in the middle of training, for ``trpo-fast bench cg``.

    python benchmarks/record.py                          # the two that are committed
    python benchmarks/record.py --case halfcheetah --rows 25000 --out /tmp/recorded

Observations, actions and advantages are kept in float16: their rounding is far below the noise of
a batch, and whoever solves it gets the same numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import trpo_fast
from trpo_fast import TRPO, flat_params
from trpo_fast.bench import recorded
from trpo_fast.train.targets import estimate

HERE = Path(recorded.__file__).parent
# Environment, steps of training before the batch, its rows.
RECORDED = {
    "hopper": ("Hopper-v5", 100_000, 2048),
    "halfcheetah": ("HalfCheetah-v5", 200_000, 8192),
}
SEED = 3


def collected(agent: TRPO, rows: int) -> dict[str, list[Tensor]]:
    """As many rollouts of the same policy as make so many rows."""
    found: dict[str, list[Tensor]] = {"obs": [], "actions": [], "advantages": []}
    while sum(map(len, found["obs"])) < rows:
        batch, _, _ = estimate(agent, agent.collect())
        for field, tensors in found.items():
            tensors.append(getattr(batch, field))
    return found


def half_of(tensors: list[Tensor]) -> np.ndarray:
    return torch.cat(tensors).numpy().astype(np.float16)


def record(name: str, rows: int, out: Path) -> None:
    env, steps, _ = RECORDED[name]
    torch.set_num_threads(1)
    agent = TRPO(env, num_envs=8, seed=SEED, device="cpu")
    agent.learn(steps)
    half = {field: half_of(tensors)[:rows] for field, tensors in collected(agent, rows).items()}
    out.mkdir(parents=True, exist_ok=True)
    made = f"{env} after {steps} steps, seed {SEED}, trpo_fast {trpo_fast.__version__}"
    theta = flat_params(agent.policy).numpy()
    np.savez_compressed(out / f"{name}.npz", **half, theta=theta, made=np.array(made))
    agent.close()
    print(f"{name}: {len(half['obs'])} rows, {(out / f'{name}.npz').stat().st_size / 1e3:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs="+", choices=list(RECORDED), default=list(RECORDED))
    parser.add_argument("--rows", type=int, help="rows of the batch, where not those committed")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    for name in options.case:
        record(name, options.rows or RECORDED[name][2], options.out)


if __name__ == "__main__":
    main()
