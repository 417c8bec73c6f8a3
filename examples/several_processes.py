"""CartPole by several processes, each with copies of the environment of its own: one policy, one
critic, exact sums over all rows.

    torchrun --nproc-per-node=2 examples/several_processes.py

Without torchrun it is one process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from trpo_fast import Batch, Categorical, Critic, MLPPolicy, flat_params, trpo_update
from trpo_fast.envs.tensor import TensorEnv, make
from trpo_fast.learner.advantage import gae, next_values, normalise
from trpo_fast.learner.normalise import RunningStatistics

COPIES, STEPS, GAMMA, LAMBDA = 32, 64, 0.99, 0.95


class Rollout(NamedTuple):
    """STEPS steps of every copy, [T, E, ...]."""

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    final_obs: Tensor
    following: Tensor  # [E, O]


def collect(env: TensorEnv, policy: MLPPolicy, obs: Tensor) -> Rollout:
    seen: list[tuple[Tensor, ...]] = []
    for _ in range(STEPS):
        with torch.no_grad():
            actions = policy(obs).sample()
        step = env.step(actions)
        assert step.final_obs is not None
        seen.append((obs, actions, step.rewards, step.terminated, step.truncated, step.final_obs))
        obs = step.obs
    return Rollout(*map(torch.stack, zip(*seen, strict=True)), following=obs)


def learn(policy: MLPPolicy, critic: Critic, rows: Rollout, group: Any) -> str:
    """One update of the policy and a fit of the critic with the rows of all ranks."""
    values = critic.values(rows.obs.flatten(0, 1)).view(rows.rewards.shape)
    final = critic.values(rows.final_obs.flatten(0, 1)).view(rows.rewards.shape)
    following = next_values(
        values, critic.values(rows.following), rows.terminated, rows.truncated, final
    )
    done = rows.terminated | rows.truncated
    gains = gae(rows.rewards, values, following, done, gamma=GAMMA, lam=LAMBDA)
    obs, advantages = rows.obs.flatten(0, 1), normalise(gains.flatten(), group=group)
    info = trpo_update(policy, Batch(obs, rows.actions.flatten(), advantages), group=group)
    critic.fit(obs, (gains + values).flatten(), group=group)
    return info.reason


def main(updates: int = 40, say: Callable[[str], None] = print) -> tuple[MLPPolicy, float]:
    """The policy and the last mean length of episodes that ended, over all ranks."""
    group, rank = None, 0
    if "RANK" in os.environ:  # torchrun sets it
        dist.init_process_group("gloo")
        group, rank = dist.group.WORLD, dist.get_rank()
    torch.manual_seed(0)
    policy, critic = MLPPolicy(4, Categorical(2)), Critic(4)
    if group is not None:
        for theta in (flat_params(policy), critic.theta):
            dist.broadcast(theta, src=0)
    torch.manual_seed(1 + rank)  # each rank has actions and episodes of its own
    env = make("CartPole-v1", COPIES, seed=1 + rank)
    obs, elapsed, length = env.reset(), torch.zeros(COPIES), 0.0
    for update in range(updates):
        rows = collect(env, policy, obs)
        obs = rows.following
        lengths = RunningStatistics(1)
        ended = []
        for done in rows.terminated | rows.truncated:
            elapsed += 1
            ended.append(elapsed[done])
            elapsed[done] = 0.0
        lengths.merge(torch.cat(ended).view(-1, 1), group=group)
        length = float(lengths.mean)
        reason = learn(policy, critic, rows, group)
        if rank == 0:
            say(f"update {update:3}  length {length:6.1f} of {int(lengths.count)}  {reason}")
    if group is not None:
        dist.destroy_process_group()
    return policy, length


if __name__ == "__main__":
    main()
