"""Train CartPole-v1 until the mean return of the last episodes is 475, then evaluate the policy.

python examples/train_cartpole.py
"""

from __future__ import annotations

import sys
import time

from trpo_fast import TRPO, evaluate
from trpo_fast.train.loggers import header, line

SOLVED = 475.0


def report(agent: TRPO, record: dict) -> None:
    if record["update"] % 10 == 0:
        print(line(record))


def main() -> int:
    begin = time.perf_counter()
    agent = TRPO("CartPole-v1", num_envs=8, seed=0)
    print(header())
    agent.learn(500_000, callbacks=[report], target_return=SOLVED)
    seconds = time.perf_counter() - begin
    reached = sum(agent.recent_returns) / len(agent.recent_returns)
    print(f"mean return {reached:.1f} after {agent.steps:,} steps and {seconds:.1f} s")
    print(f"evaluation: {evaluate(agent, episodes=20)}")
    if reached < SOLVED:
        print(f"did not reach {SOLVED:.0f}")
        return 1
    print(f"CartPole-v1 is solved: {SOLVED:.0f} reached in {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
