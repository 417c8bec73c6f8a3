"""Vine sampling: several actions tried from the same saved simulator states.

A path is collected as usual and a rollout set s_1, ..., s_N of its states is saved. From each, K
actions are branched and followed for some steps under the policy, all K with the same random
numbers, so that their difference is due to the action:

    Q(s_n, a) = sum_{l < L} gamma^l r_l + gamma^L V(s_L)

A small action set is summed exactly, sum_a pi_theta(a | s_n) Q(s_n, a), as rows of weight pi_old(a
| s_n); otherwise K actions drawn from q form a group whose surrogate is self-normalised
(``Batch.group_size``) and needs no baseline:

    sum_k rho_k Q(s_n, a_nk) / sum_k rho_k,     rho_k = pi_theta(a_nk | s_n) / q(a_nk | s_n)

q is pi_old, or with ``vine_actions="uniform"`` the same probability for each action of a discrete
set; the batch's ``log_probs`` are those of q.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._base.arguments import fail
from .._base.rows import one_tensor
from ..core.batch import Batch
from ..learner.advantage import discount_weights, normalise
from .agent import Agent
from .branches import HostRunner, TensorRunner, check_states
from .collect_host import HostCollector
from .rollout import Rollout

EXACT = 8  # action sets up to this size are summed exactly


@dataclass
class RolloutSet:
    """N states of a path, saved so that they can be gone back to."""

    times: Tensor  # [N] rows of the rollout, sorted by time
    copies: Tensor  # [N] environment copies
    states: list[Any]  # N snapshots (host), or one batch of physics (tensor)


@dataclass
class Branches:
    """N x K actions and what they led to."""

    actions: Tensor  # [N, K, ...]
    weights: Tensor | None  # [N, K] pi_old(a | s) of an exact sum, None for sampled actions
    values: Tensor  # [N, K] Q(s_n, a_nk)
    steps: int  # simulator steps that this took


class Vine:
    """Collects a path and its branches for an agent; environments must have a state adapter."""

    def __init__(self, agent: Agent) -> None:
        check_states(agent.collector.unsupported())
        if agent.collector.layout.parts is not None:
            raise fail("sampling", "'path' for observations that are more than a vector", "'vine'")
        if agent.config.normalize_rewards:
            raise ValueError("normalize_rewards: expected false with sampling='vine', got true")
        self.agent, self.head = agent, agent.head
        if self.head.noise == "none":
            wanted = f"'path' for the head {type(self.head).__name__}, which draws from no noise"
            raise fail("sampling", wanted, "'vine'")
        self.uniform = agent.config.vine_actions == "uniform"
        if self.uniform and not self.head.discrete:
            wanted = f"'policy' for the head {type(self.head).__name__}, which is not discrete"
            raise fail("vine_actions", wanted, "'uniform'")
        self.exact = 0 < self.head.alternatives <= EXACT
        self.branches = self.head.alternatives if self.exact else agent.config.vine_branches
        host = isinstance(agent.collector, HostCollector)
        self.runner: Any = HostRunner(agent, self.branches) if host else TensorRunner(agent)

    @property
    def env_seconds(self) -> float:
        """Seconds of the last branches inside the simulator: going back to states, and steps."""
        return self.runner.env_seconds

    def collect(self) -> tuple[Rollout, RolloutSet]:
        """A path, and the states of it that branches will start from."""
        layout, config = self.agent.collector.layout, self.agent.config
        rows = layout.steps * layout.envs
        count = min(config.vine_states, rows)
        device = self.agent.device
        order = torch.randperm(rows, generator=self.agent.generator, device=device)
        chosen = order[:count].sort().values
        times, copies = chosen // layout.envs, chosen % layout.envs
        saved = self.runner.save_on_path(times, copies)
        rollout = self.agent.collect()
        return rollout, RolloutSet(times, copies, saved)

    @torch.no_grad()
    def batch(self, rollout: Rollout, states: RolloutSet) -> tuple[Batch, int]:
        """The policy's batch [N K], and the simulator steps that the branches took."""
        seen = one_tensor(rollout.obs)
        at = (states.times.to(seen.device), states.copies.to(seen.device))
        obs = seen[at].to(self.agent.device)
        mask = None if rollout.mask is None else rollout.mask[at].to(self.agent.device)
        params = self.agent.params(obs, mask)
        branches = self.branch(params, states)
        drawn_from = params if self.exact else self._sampler(params)
        wide = [tensor.repeat_interleave(self.branches, 0) for tensor in (obs, drawn_from)]
        actions = branches.actions.flatten(0, 1)
        log_probs = self.head.log_prob(wide[1], actions)
        weights = self._weights(rollout, branches, at)
        advantages = (branches.values - self._baseline(branches)).flatten()
        mask = None if mask is None else mask.repeat_interleave(self.branches, 0)
        if mask is not None and weights is not None:
            # A masked action has weight zero; whatever stands in its row is never read.
            log_probs = torch.where(weights > 0, log_probs, 0.0)
        if self.agent.config.normalize_advantages:
            advantages = normalise(advantages, weights)
        group = None if self.exact else self.branches
        batch = Batch(wide[0], actions, advantages, log_probs, weights, mask, group)
        return batch, branches.steps

    def _weights(
        self, rollout: Rollout, branches: Branches, at: tuple[Tensor, Tensor]
    ) -> Tensor | None:
        """[N K] pi_old(a | s) of an exact sum, times gamma^t of the states where that is asked."""
        weights, config = branches.weights, self.agent.config
        if config.discount_weights:
            steps = rollout.episode_steps()[at].to(self.agent.device)
            discounts = discount_weights(steps, config.gamma).unsqueeze(1)
            weights = discounts.expand(-1, self.branches) * (1.0 if weights is None else weights)
        return None if weights is None else weights.flatten()

    def _baseline(self, branches: Branches) -> Tensor:
        """[N, 1]; changes neither estimator, only the size of the numbers."""
        if branches.weights is None:
            return branches.values.mean(1, keepdim=True)
        return (branches.weights * branches.values).sum(1, keepdim=True)

    def branch(self, params: Tensor, states: RolloutSet) -> Branches:
        """Try K actions in each state and follow the policy from there."""
        count = len(params)
        weights = None
        if self.exact:
            choices = torch.arange(self.branches, dtype=torch.int64, device=params.device)
            actions = choices.expand(count, -1).contiguous()
            weights = torch.softmax(params, -1)
        else:
            shape = (self.branches, *params.shape)
            tiled = self._sampler(params).expand(shape).transpose(0, 1).flatten(0, 1)
            chosen = self.head.sample(tiled, self.agent.generator)
            actions = chosen.view(count, self.branches, *chosen.shape[1:])
        # One stream of noise per state, shared by its K branches.
        noise = self._noise(count)
        everyone = torch.ones(actions.shape[:2], dtype=torch.bool, device="cpu")
        live = everyone if weights is None else weights > 0
        values, steps = self.runner.follow(states.states, actions, noise, live)
        return Branches(actions, weights, values, steps)

    def _sampler(self, params: Tensor) -> Tensor:
        """Distribution parameters [N, D] of q."""
        return self.head.uniform_params(params) if self.uniform else params

    def _noise(self, count: int) -> Tensor:
        """[L - 1, N, Z or A]: what every later action of a branch is drawn with."""
        length = max(0, self.agent.config.vine_length - 1)
        like = torch.empty(0, dtype=torch.float32, device=self.agent.device)
        return self.head.draw_noise(length, count, like=like, generator=self.agent.generator)
