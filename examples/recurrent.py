"""Policies that remember, on environments that show positions and hide velocities.

    python examples/recurrent.py                      # CartPole: an MLP, a GRU and an LSTM
    python examples/recurrent.py --env Pendulum-v1    # beside an MLP that sees stacked frames

The mean return of the last 100 episodes is printed as training goes, and a table at the end.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import FlattenObservation, FrameStackObservation

from trpo_fast import TRPO, evaluate

POSITIONS = {"CartPole-v1": (0, 2), "Pendulum-v1": (0, 1)}  # of the observations
# Gradients go back through 32 steps: as many sequences are run at a time as that makes.
REMEMBERING: dict[str, Any] = {"sequence_length": 32}
SETTINGS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"num_envs": 16, "rows_per_update": 2048, "critic_learning_rate": 1e-3},
    "Pendulum-v1": {"critic_learning_rate": 1e-3},
}


class HideVelocities(gym.ObservationWrapper[Any, Any, Any]):
    """Some of an environment's observations, such as those that are no velocities."""

    def __init__(self, env: gym.Env[Any, Any], shown: tuple[int, ...]) -> None:
        super().__init__(env)
        self.shown, space = list(shown), env.observation_space
        assert isinstance(space, gym.spaces.Box)
        low, high = space.low[self.shown], space.high[self.shown]
        self.observation_space = gym.spaces.Box(low, high, dtype=np.float32)

    def observation(self, observation: Any) -> Any:
        return observation[self.shown]


def maker(name: str, frames: int) -> Callable[[], gym.Env[Any, Any]]:
    """A function that makes the environment, with as many frames stacked."""

    def masked() -> gym.Env[Any, Any]:
        env: gym.Env[Any, Any] = HideVelocities(gym.make(name), POSITIONS[name])
        return FlattenObservation(FrameStackObservation(env, frames)) if frames > 1 else env

    masked.__name__ = name  # by which presets are chosen
    return masked


def run(name: str, policy: str, seed: int, steps: int) -> tuple[float, float]:
    """The mean return of the last 100 episodes of training, and of 20 played without noise."""
    frames = int(policy.removeprefix("frames ")) if policy.startswith("frames") else 1
    settings = dict(SETTINGS[name])
    if policy in ("gru", "lstm"):
        settings |= REMEMBERING | {"policy": policy}
    agent = TRPO(maker(name, frames), seed=seed, **settings)

    def tell(agent: TRPO, record: dict[str, Any]) -> None:
        if agent.updates % 10 == 0:
            print(
                f"{policy:9} seed {seed} {agent.steps:7} steps: {record['return']:8.1f}", flush=True
            )

    agent.learn(steps, callbacks=tell)
    played = evaluate(agent, 20).mean
    agent.close()
    return float(np.mean(agent.recent_returns)), played


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", choices=[*POSITIONS], default="CartPole-v1")
    parser.add_argument("--policies", nargs="+", default=None)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=None)
    args = parser.parse_args()
    steps = args.steps or (200_000 if args.env == "CartPole-v1" else 300_000)
    policies = args.policies or ["mlp", "frames 4", "gru", "lstm"]
    rows = [(p, s, *run(args.env, p, s, steps)) for p in policies for s in args.seeds]
    print(f"\n{args.env} without velocities, {steps} steps\npolicy    seed  last 100  played")
    for policy, seed, last, played in rows:
        print(f"{policy:9} {seed:4}  {last:8.1f}  {played:6.1f}")


if __name__ == "__main__":
    main()
