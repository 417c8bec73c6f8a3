"""Vine sampling: several actions tried from the same saved simulator states.

A path is collected as usual and a rollout set s_1, ..., s_N of its states is saved. From each, K
actions are branched and followed for some steps under the policy, all K with the same random
numbers, so that their difference is due to the action:

    Q(s_n, a) = sum_{l < L} gamma^l r_l + gamma^L V(s_L)

A small action set is summed exactly, sum_a pi_theta(a | s_n) Q(s_n, a), as rows of weight pi_old(a
| s_n); otherwise K actions of pi_old form a group whose surrogate is self-normalised
(``Batch.group_size``) and needs no baseline.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .advantage import normalise
from .collect import HostCollector
from .envs.engines import make_host
from .envs.errors import EnvError
from .envs.state import restore
from .heads import Head
from .rollout import Rollout
from .surrogate import Batch

if TYPE_CHECKING:
    from .trainer import TRPO

EXACT = 8  # action sets up to this size are summed exactly
STATES = 8  # whose branches gymnasium's environments run side by side


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

    def __init__(self, agent: TRPO) -> None:
        _check_states(agent.collector.unsupported())
        if agent.config.normalize_rewards:
            raise ValueError("normalize_rewards: expected false with sampling='vine', got true")
        self.agent, self.head = agent, agent.policy.head
        self.exact = self.head.kind == "categorical" and self.head.outputs <= EXACT
        self.branches = self.head.outputs if self.exact else agent.config.vine_branches
        host = isinstance(agent.collector, HostCollector)
        self.runner: Any = _HostRunner(agent, self.branches) if host else _TensorRunner(agent)

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
        saved = self.runner.watch(times, copies)
        rollout = self.agent.collect()
        return rollout, RolloutSet(times, copies, saved)

    @torch.no_grad()
    def batch(self, rollout: Rollout, states: RolloutSet) -> tuple[Batch, int]:
        """The policy's batch [N K], and the simulator steps that the branches took."""
        at = (states.times.to(rollout.obs.device), states.copies.to(rollout.obs.device))
        obs = rollout.obs[at].to(self.agent.device)
        mask = None if rollout.mask is None else rollout.mask[at].to(self.agent.device)
        params = self.agent.policy.distribution_params(obs, mask)
        branches = self.branch(params, states)
        wide = [tensor.repeat_interleave(self.branches, 0) for tensor in (obs, params)]
        actions = branches.actions.flatten(0, 1)
        log_probs = self.head.log_prob(wide[1], actions)
        weights = None if branches.weights is None else branches.weights.flatten()
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
            choices = torch.arange(self.branches, device=params.device)
            actions = choices.expand(count, -1).contiguous()
            weights = torch.softmax(params, -1)
        else:
            shape = (self.branches, *params.shape)
            tiled = params.expand(shape).transpose(0, 1).flatten(0, 1)
            chosen = self.head.sample(tiled, self.agent.generator)
            actions = chosen.view(count, self.branches, *chosen.shape[1:])
        # One stream of noise per state, shared by its K branches.
        noise = self._noise(count)
        live = torch.ones(actions.shape[:2], dtype=torch.bool) if weights is None else weights > 0
        values, steps = self.runner.follow(states.states, actions, noise, live)
        return Branches(actions, weights, values, steps)

    def _noise(self, count: int) -> Tensor:
        """[L - 1, N, Z or A]: what every later action of a branch is drawn with."""
        gaussian = self.head.kind.startswith("gaussian")
        width = self.head.action_dim if gaussian else self.head.outputs
        length = max(0, self.agent.config.vine_length - 1)
        noise = torch.empty(length, count, width, device=self.agent.device)
        if gaussian:
            return noise.normal_(generator=self.agent.generator)
        return noise.uniform_(generator=self.agent.generator)


def _check_states(why: str | None) -> None:
    if why is not None:
        raise ValueError(f"sampling: expected 'path', because {why}, got 'vine'")


def choose(head: Head, params: Tensor, noise: Tensor) -> Tensor:
    """An action per row from given noise: the same noise and parameters give the same action."""
    if head.kind.startswith("gaussian"):
        mean, log_std = params.chunk(2, dim=-1)
        return mean + log_std.exp() * noise
    if head.kind == "bernoulli":
        return (noise < torch.sigmoid(params)).to(params.dtype)
    tiny = torch.finfo(params.dtype).tiny
    return head.mode(params - (-noise.clamp_min(tiny).log()).log())


def _shown(agent: TRPO, raw: Tensor) -> Tensor:
    raw = raw if agent.normaliser is None else agent.normaliser(raw)
    return raw.to(agent.device)


class _TensorRunner:
    """Branches of a tensor environment: all N K of them are copies of one larger environment."""

    def __init__(self, agent: TRPO) -> None:
        self.agent = agent
        self.env_seconds = 0.0

    def watch(self, times: Tensor, copies: Tensor) -> list[Any]:
        """Save states as the path passes them; the list fills while it is collected."""
        saved: list[Any] = []
        env: Any = self.agent.envs
        wanted = {int(t): copies[times == t] for t in times.unique()}

        def save(t: int) -> None:
            if t in wanted:
                rows = wanted[t]
                saved.append((env.physics[rows].clone(), env.elapsed[rows].clone()))

        self.agent.collector.before_step = save
        return saved

    @torch.no_grad()
    def follow(
        self, saved: list[Any], actions: Tensor, noise: Tensor, live: Tensor
    ) -> tuple[Tensor, int]:
        """(Q [N, K], simulator steps) of actions [N, K, ...] taken in the saved states."""
        agent, (count, width) = self.agent, actions.shape[:2]
        agent.collector.before_step = None
        env: Any = agent.envs
        begin = perf_counter()
        env = env.sized(count * width)
        physics, elapsed = (torch.cat(parts) for parts in zip(*saved, strict=True))
        state = {"physics": physics, "elapsed": elapsed}
        env.load_state({name: rows.repeat_interleave(width, 0) for name, rows in state.items()})
        self.env_seconds = perf_counter() - begin
        alive = live.flatten().to(agent.device)
        total = torch.zeros(count * width, device=agent.device)
        steps = torch.zeros((), dtype=torch.int64, device=agent.device)
        discount, chosen = 1.0, actions.flatten(0, 1)
        for length in range(len(noise) + 1):
            moves = agent.collector.action_map.device(chosen)
            begin = perf_counter()
            step = env.step(moves)
            self.env_seconds += perf_counter() - begin
            steps += alive.sum()
            total += torch.where(alive, discount * step.rewards, 0.0)
            discount *= agent.config.gamma
            cut = alive & step.truncated
            last = length == len(noise)
            bootstrap = alive & ~step.terminated if last else cut
            value = agent.critic.values(_shown(agent, step.final_obs))
            total += torch.where(bootstrap, discount * value, 0.0)
            alive = alive & ~step.terminated & ~step.truncated
            if not last:
                params = agent.policy.distribution_params(_shown(agent, step.obs))
                chosen = choose(
                    agent.policy.head, params, noise[length].repeat_interleave(width, 0)
                )
        return total.view(count, width), int(steps)


class _HostRunner:
    """Branches of gymnasium environments: those of a few states at a time, each in its own copy."""

    def __init__(self, agent: TRPO, width: int) -> None:
        self.agent, self.width = agent, width
        self.env_seconds = 0.0
        if hasattr(agent.env_source, "num_envs"):
            raise ValueError(
                "env: expected a gymnasium id or a function with sampling='vine', "
                "got a vector environment, which cannot be copied"
            )
        copies = make_host(agent.env_source, width * STATES, options=agent.env_options)
        copies.reset(seed=0)
        _check_states(copies.unsupported())  # some attributes come with the first reset
        self.envs: list[Any] = copies.venv.envs

    def watch(self, times: Tensor, copies: Tensor) -> list[Any]:
        """Save states as the path passes them; the list fills while it is collected."""
        saved: list[Any] = []
        envs: Any = self.agent.envs
        wanted: dict[int, list[int]] = {}
        for t, copy in zip(times.tolist(), copies.tolist(), strict=True):
            wanted.setdefault(t, []).append(copy)

        def save(t: int) -> None:
            if t in wanted:
                saved.extend(envs.state(wanted[t]))

        self.agent.collector.before_step = save
        return saved

    @torch.no_grad()
    def follow(
        self, saved: list[Any], actions: Tensor, noise: Tensor, live: Tensor
    ) -> tuple[Tensor, int]:
        """(Q [N, K], simulator steps) of actions [N, K, ...] taken in the saved states."""
        self.agent.collector.before_step = None
        self.env_seconds = 0.0
        values, steps = [], 0
        for first in range(0, len(saved), STATES):
            part = slice(first, first + STATES)
            value, taken = self._part(saved[part], actions[part], noise[:, part], live[part])
            values.append(value.view(-1, self.width))
            steps += taken
        return torch.cat(values).to(self.agent.device), steps

    def _part(
        self, saved: list[Any], actions: Tensor, noise: Tensor, live: Tensor
    ) -> tuple[Tensor, int]:
        agent = self.agent
        slots = np.flatnonzero(live.cpu().numpy())  # branch k of state n lives in copy n K + k
        begin = perf_counter()
        for slot in slots:
            restore(self.envs[slot], saved[slot // self.width])
        self.env_seconds += perf_counter() - begin
        total, steps, discount = torch.zeros(live.numel()), 0, 1.0
        chosen = actions.flatten(0, 1)[slots]
        for length in range(len(noise) + 1):
            moves = agent.collector.action_map.host(chosen.cpu().numpy())
            begin = perf_counter()
            came = [self.envs[i].step(move) for i, move in zip(slots, moves, strict=True)]
            self.env_seconds += perf_counter() - begin
            total[slots] += discount * torch.tensor([float(c[1]) for c in came])
            terminated, truncated = (np.array([bool(c[j]) for c in came]) for j in (2, 3))
            steps, discount = steps + len(slots), discount * agent.config.gamma
            obs = np.stack([np.asarray(c[0], np.float32).reshape(-1) for c in came])
            self._check_finite([float(c[1]) for c in came], obs[~terminated], length + 1)
            rows = _shown(agent, torch.from_numpy(obs))
            last = length == len(noise)
            cut = np.flatnonzero(~terminated & (truncated | last))
            if len(cut):
                total[slots[cut]] += discount * agent.critic.values(rows[cut]).cpu()
            going = np.flatnonzero(~terminated & ~truncated)
            if last or not len(going):
                break
            slots = slots[going]
            mask = self._mask([came[i][4] for i in going])
            params = agent.policy.distribution_params(rows[going], mask)
            chosen = choose(agent.policy.head, params, noise[length, slots // self.width])
        return total, steps

    def _check_finite(self, rewards: list[float], obs: np.ndarray, steps: int) -> None:
        """Refuse rewards and observations [N, O] that are not finite."""
        envs: Any = self.agent.envs
        where = f"a branch, {steps} steps after the state that it began in"
        for reward in rewards:
            if not math.isfinite(reward):
                raise EnvError(f"{envs.label()} returned reward {reward} from {where}")
        envs.check_finite(obs, lambda row: f"observation of {where}")

    def _mask(self, infos: list[dict[str, Any]]) -> Tensor | None:
        if not self.agent.collector.layout.mask_width:
            return None
        masks = np.stack([np.asarray(info["action_mask"], bool).reshape(-1) for info in infos])
        return torch.as_tensor(masks, device=self.agent.device)
