"""``trpo_fast.integrations.sb3.TRPO`` beside sb3-contrib's TRPO, in one process.

python benchmarks/sb3.py train     # train() on the same filled buffers, a line a shape
python benchmarks/sb3.py rollout   # env steps/s of learn(), and what collecting and train() take
python benchmarks/sb3.py returns   # final returns over seeds with 95 % intervals (minutes to hours)
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import gymnasium
import numpy as np
import torch
from sb3_contrib.trpo.trpo import TRPO as Sb3TRPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure

from trpo_fast.integrations.sb3 import TRPO

KINDS = {"ours": TRPO, "sb3": Sb3TRPO}
# Name -> observations, actions, rows, layers.
SHAPES = {
    "Hopper": (11, 3, 2048, [64, 64]),
    "Hopper, 8 envs": (11, 3, 16384, [64, 64]),
    "Humanoid": (348, 17, 2048, [64, 64]),
    "Hopper, wide": (11, 3, 2048, [256, 256]),
}


class Shape(gymnasium.Env):
    """Spaces alone; it is never stepped."""

    def __init__(self, observations: int, actions: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (observations,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (actions,), np.float32)


def fill(model: Any, rows: int) -> None:
    """The same observations and advantages for every model, actions of its policy."""
    rng, buffer = np.random.default_rng(0), model.rollout_buffer
    buffer.reset()
    buffer.observations = rng.normal(size=buffer.observations.shape)
    with torch.no_grad():
        actions, values, log_probs = model.policy(torch.as_tensor(buffer.observations[:, 0]))
    buffer.actions = actions.numpy()[:, None]
    buffer.values, buffer.log_probs = values.numpy(), log_probs.numpy()[:, None]
    buffer.advantages = rng.normal(size=(rows, 1)).astype(np.float32)
    buffer.returns = buffer.advantages + buffer.values
    buffer.pos, buffer.full = rows, True


def time_train(repeats: int) -> None:
    for name, (observations, actions, rows, layers) in SHAPES.items():
        models, times = {}, {kind: [] for kind in KINDS}
        for kind, made in KINDS.items():
            env, arch = Shape(observations, actions), {"net_arch": layers}
            models[kind] = made(
                "MlpPolicy", env, n_steps=rows, seed=1, policy_kwargs=arch, device="cpu"
            )
            models[kind].set_logger(configure(None, []))
            models[kind]._current_progress_remaining = 1.0
        for _ in range(repeats + 1):
            for kind, model in models.items():
                fill(model, rows)
                start = time.perf_counter()
                model.train()
                times[kind].append(time.perf_counter() - start)
        ours, theirs = (statistics.median(times[kind][1:]) for kind in KINDS)
        said = f"ours {1e3 * ours:.1f} ms, sb3 {1e3 * theirs:.1f} ms, {theirs / ours:.1f}x"
        print(f"{name}: {rows} rows, {layers}: {said}", flush=True)


def time_rollouts(env: str, envs: int, updates: int) -> None:
    """Whole updates of both in turn, since the machine may slow down in between: medians."""
    trained: list[float] = []
    models, whole, train = {}, {k: [] for k in KINDS}, {k: [] for k in KINDS}
    for kind, made in KINDS.items():

        class Timed(made):  # type: ignore[misc, valid-type]
            def train(self) -> None:
                start = time.perf_counter()
                super().train()
                trained.append(time.perf_counter() - start)

        vector = make_vec_env(env, envs, seed=0)
        models[kind] = Timed("MlpPolicy", vector, n_steps=2048 // envs, seed=0, device="cpu")
        models[kind].learn(2048)
    for _ in range(updates):
        for kind, model in models.items():
            trained.clear()
            start = time.perf_counter()
            model.learn(2048, reset_num_timesteps=False)
            whole[kind].append(time.perf_counter() - start)
            train[kind].append(sum(trained))
    took = {kind: statistics.median(whole[kind]) for kind in KINDS}
    for kind in KINDS:
        split = statistics.median(train[kind])
        said = f"collecting {took[kind] - split:.3f} s, train() {split:.3f} s an update"
        print(f"{env}, {envs} envs, {kind}: {2048 / took[kind]:.0f} steps/s; {said}", flush=True)
    print(f"{env}, {envs} envs: {took['sb3'] / took['ours']:.2f}x", flush=True)


def final_returns(env: str, steps: int, seeds: int) -> None:
    for kind, made in KINDS.items():
        found = []
        for seed in range(seeds):
            model = made(
                "MlpPolicy", make_vec_env(env, 2, seed=seed), n_steps=512, seed=seed, device="cpu"
            )
            model.learn(steps)
            mean, _ = evaluate_policy(
                model, make_vec_env(env, 1, seed=100 + seed), n_eval_episodes=20
            )
            found.append(float(mean))
        half = 1.96 * statistics.stdev(found) / len(found) ** 0.5
        each = [round(value, 1) for value in found]
        print(f"{env}, {steps} steps, {kind}: {statistics.mean(found):.1f} +- {half:.1f} of {each}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("train", "rollout", "returns"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--env", default="")
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.what == "train":
        time_train(given.repeats)
    elif given.what == "rollout":
        time_rollouts(given.env or "Hopper-v5", 8, given.repeats)
    else:
        for env in [given.env] if given.env else ["CartPole-v1", "Pendulum-v1"]:
            final_returns(env, given.steps, given.seeds)


if __name__ == "__main__":
    main()
