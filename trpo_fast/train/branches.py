"""Branches followed from saved states: all at once in a tensor environment, a few states at a time
in gymnasium's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._base.rows import one_tensor
from .._base.seeds import derive, derive_all
from ..envs.engines import make_host
from ..envs.errors import EnvError, shape_error
from ..envs.gym.host import HostEnvs
from ..envs.gym.state import restore
from ..envs.tensor.base import TensorEnv
from .agent import Agent

STATES = 8  # whose branches gymnasium's environments run side by side


def check_states(why: str | None) -> None:
    if why is not None:
        raise ValueError(f"sampling: expected 'path', because {why}, got 'vine'")


def _shown(agent: Agent, raw: Tensor) -> Tensor:
    shown = raw if agent.normaliser is None else one_tensor(agent.normaliser(raw))
    return shown.to(agent.device)


def _save_on_path(
    agent: Agent, times: Tensor, copies: Tensor, save: Callable[[Tensor], list[Any]]
) -> list[Any]:
    """Save states of the path: at each time ``save`` gets the copies [M] that are wanted then. The
    list fills while the path is collected.
    """
    saved: list[Any] = []
    wanted = {int(t): copies[times == t] for t in times.unique()}

    def save_here(t: int) -> None:
        if t in wanted:
            saved.extend(save(wanted[t]))

    agent.collector.before_step = save_here
    return saved


class TensorRunner:
    """Branches of a tensor environment: all N K of them are copies of one larger environment."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.env_seconds = 0.0
        if not isinstance(agent.envs, TensorEnv):
            check_states(
                f"{type(agent.envs).__name__} is no TensorEnv, whose physics branches are copies of"
            )

    def save_on_path(self, times: Tensor, copies: Tensor) -> list[Any]:
        env: Any = self.agent.envs
        return _save_on_path(
            self.agent, times, copies, lambda i: [(env.physics[i].clone(), env.elapsed[i].clone())]
        )

    @torch.no_grad()
    def follow(
        self, saved: list[Any], actions: Tensor, noise: Tensor, live: Tensor
    ) -> tuple[Tensor, int]:
        """(Q [N, K], simulator steps) of actions [N, K, ...] taken in the saved states."""
        agent, (count, width) = self.agent, actions.shape[:2]
        agent.collector.before_step = None
        env: Any = agent.envs
        begin = perf_counter()
        env = env.sized(count * width, seed=derive(agent.config.seed, "vine", agent.updates))
        physics, elapsed = (torch.cat(parts) for parts in zip(*saved, strict=True))
        state = {"physics": physics, "elapsed": elapsed}
        env.load_state({name: rows.repeat_interleave(width, 0) for name, rows in state.items()})
        self.env_seconds = perf_counter() - begin
        alive = live.flatten().to(agent.device)
        total = torch.zeros(count * width, dtype=torch.float32, device=agent.device)
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
                params = agent.params(_shown(agent, step.obs))
                drawn = noise[length].repeat_interleave(width, 0)
                chosen = agent.head.choose(params, drawn)
        return total.view(count, width), int(steps)


class HostRunner:
    """Branches of gymnasium environments: those of a few states at a time, each in its own copy."""

    def __init__(self, agent: Agent, width: int) -> None:
        assert isinstance(agent.envs, HostEnvs)
        self.agent, self.width, self._path = agent, width, agent.envs
        self.env_seconds = 0.0
        if hasattr(agent.env_source, "num_envs"):
            raise ValueError(
                "env: expected a gymnasium id or a function with sampling='vine', "
                "got a vector environment, which cannot be copied"
            )
        copies = make_host(agent.env_source, width * STATES, options=agent.env_options)
        copies.reset(derive_all(agent.config.seed, "vine", copies.num_envs, 0))
        check_states(copies.unsupported())  # some attributes come with the first reset
        self.envs: list[Any] = copies.venv.envs

    def save_on_path(self, times: Tensor, copies: Tensor) -> list[Any]:
        return _save_on_path(self.agent, times, copies, lambda i: self._path.state(i.tolist()))

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
        agent, envs = self.agent, self._path
        slots = np.flatnonzero(live.cpu().numpy())  # branch k of state n lives in copy n K + k
        begin = perf_counter()
        with envs.named("going back to a state"):
            for slot in slots:
                restore(self.envs[slot], saved[slot // self.width])
        self.env_seconds += perf_counter() - begin
        total = torch.zeros(live.numel(), dtype=torch.float32, device="cpu")
        steps, discount = 0, 1.0
        chosen = actions.flatten(0, 1)[slots]
        for length in range(len(noise) + 1):
            moves = agent.collector.action_map.host(chosen.cpu().numpy())
            begin = perf_counter()
            with envs.named("the step of a branch"):
                results = [self.envs[i].step(move) for i, move in zip(slots, moves, strict=True)]
            self.env_seconds += perf_counter() - begin
            rewards = np.array([float(c[1]) for c in results], np.float32)
            total[slots] += discount * torch.from_numpy(rewards)
            terminated, truncated = (np.array([bool(c[j]) for c in results]) for j in (2, 3))
            steps, discount = steps + len(slots), discount * agent.config.gamma
            obs = self._observations(results, terminated, length + 1)
            rows = _shown(agent, torch.from_numpy(obs))
            last = length == len(noise)
            cut = np.flatnonzero(~terminated & (truncated | last))
            if len(cut):
                total[slots[cut]] += discount * agent.critic.values(rows[cut]).cpu()
            going = np.flatnonzero(~terminated & ~truncated)
            if last or not len(going):
                break
            slots = slots[going]
            with envs.named("the step of a branch"):
                mask = self._mask([results[i][4] for i in going])
            params = agent.params(rows[going], mask)
            chosen = agent.head.choose(params, noise[length, slots // self.width])
        return total, steps

    def _observations(self, results: list[Any], terminated: np.ndarray, steps: int) -> np.ndarray:
        """Observations [N, O] of what the N copies returned, which has to be numbers in shape."""
        envs, where = self._path, f"a branch, {steps} steps after the state that it began in"
        for obs, reward, *_ in results:
            if not math.isfinite(float(reward)):
                raise EnvError(f"{envs.label()} returned reward {reward} from {where}")
            if why := shape_error(obs, envs.observation_space.shape, f" from {where}"):
                raise EnvError(f"{envs.label()} failed in step: {why}")
        rows = np.stack([np.asarray(c[0], np.float32).reshape(-1) for c in results])
        envs.check_finite(rows[~terminated], lambda row: f"observation of {where}")
        return rows

    def _mask(self, infos: list[dict[str, Any]]) -> Tensor | None:
        if not self.agent.collector.layout.mask_width:
            return None
        masks = np.stack([np.asarray(info["action_mask"], bool).reshape(-1) for info in infos])
        return torch.as_tensor(masks, device=self.agent.device)
