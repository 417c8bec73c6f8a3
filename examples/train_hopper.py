"""Train Hopper-v5 (gymnasium[mujoco]), keep a checkpoint, and go on from it when run again.

python examples/train_hopper.py [checkpoint] [steps]
"""

from __future__ import annotations

import sys
from pathlib import Path

from trpo_fast import TRPO, evaluate
from trpo_fast.train.loggers import ConsoleLogger


def main(checkpoint: str = "hopper.safetensors", steps: str = "1000000") -> None:
    if Path(checkpoint).exists():
        agent = TRPO.load(checkpoint)
    else:
        agent = TRPO("Hopper-v5", num_envs=8, rows_per_update=2048, seed=0)
    left = max(0, int(steps) - agent.steps)
    console = ConsoleLogger(left, every=10)
    agent.learn(left, callbacks=[console], checkpoint_path=checkpoint)
    console.close()
    print(evaluate(agent, episodes=10))


if __name__ == "__main__":
    main(*sys.argv[1:])
