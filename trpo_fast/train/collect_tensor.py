"""Collecting from environments whose state is a batch of tensors on the policy's device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from .._base.arguments import check_array, fail
from .._base.threads import OneThread
from ..envs.actions import ActionMap
from ..envs.tensor.base import TensorEnv, TensorEnvironment, TensorStep
from ..envs.tensor.protocol import check_obs, check_step, read_step
from ..learner.actor import Actor, ActTensors
from ..learner.actor_cuda import CudaActor
from ..learner.advantage import next_values
from ..learner.normalise import ObservationNormaliser
from .critic_view import CriticView
from .memory import memory_of
from .rollout import Buffers, EpisodeLog, Layout, Rollout


class TensorCollector:
    """The loop around a tensor environment: everything stays on its device, nothing waits for
    it.
    """

    def __init__(
        self,
        env: TensorEnvironment,
        actor: Actor,
        layout: Layout,
        action_map: ActionMap,
        normaliser: ObservationNormaliser | None = None,
        view: CriticView | None = None,
    ) -> None:
        self.env, self.actor, self.layout, self.action_map = env, actor, layout, action_map
        self.normaliser, self.view = normaliser, view
        self.buffers = Buffers(layout, normaliser is not None)
        self.fused = actor.normaliser is not None
        # Whether tensors are computed while the host goes on: reading them here would wait.
        self.asynchronous = layout.device.type != "cpu" or isinstance(actor, CudaActor)
        action_map.prepare(layout.device)
        self.memory = memory_of(layout, actor)
        self._act = [self._bound(t) for t in range(layout.steps)]
        self.final_obs = layout.empty(layout.obs_dim)
        self.known: Tensor | None = None  # [T, E] bool, rows with a final observation; None: all
        self.valid: Tensor | None = None  # [T, E] bool, rows that are transitions; None: all
        self.before_step: Callable[[int], None] | None = None  # vine saves states here
        self.obs: Tensor | None = None
        self.env_seconds = 0.0
        self.log = EpisodeLog(layout.envs)
        self._checked = False  # whether a step was checked
        self._unread = False  # whether the last rollout still has to be counted

    def _bound(self, t: int) -> Callable[[], None]:
        b = self.buffers
        chosen = b.actions[t], b.log_probs[t], b.values[t]
        obs, seen = (b.raw_obs[t], b.obs[t]) if self.fused else (b.obs[t], None)
        tensors = ActTensors(obs, None, *chosen, seen)
        return self.actor.bind(tensors) if self.memory is None else self.memory.bind(t, tensors)

    def start(self, seed: int | None) -> None:
        self.obs = check_obs(self.env, self.env.reset(seed))
        self.log = EpisodeLog(self.layout.envs)
        self._unread = False
        if self.memory is not None:
            self.memory.reset()

    def collect(self) -> Rollout:
        assert self.obs is not None, "start() comes before collect()"
        self.actor.recheck_nets()
        b, self.env_seconds = self.buffers, 0.0
        self._count_previous()
        taken, stepping = 0, False
        if self.memory is not None:
            self.memory.open()
        self.log.open()
        elapsed = self.log.elapsed()
        try:
            for t in range(self.layout.steps):
                if self.before_step is not None:
                    self.before_step(t)
                b.raw_obs[t] = self.obs
                if self.view is not None:
                    self.view.store(t)
                if self.normaliser is not None and not self.fused:
                    b.obs[t] = self.normaliser(b.raw_obs[t])
                if self.memory is not None:
                    self.memory.begin(t)
                self._act[t]()
                actions = self.action_map.device(b.actions[t])
                begin, stepping = perf_counter(), True
                step = self.env.step(actions)
                self.env_seconds += perf_counter() - begin  # on a GPU: the time to launch it
                if not self._checked:
                    check_step(self.env, step)
                    self._checked = True
                self._store(t, read_step(step))
                if self.memory is not None:
                    self.memory.stepped(self._started(t))
                taken, stepping = t + 1, False
            with OneThread() if self.layout.device.type == "cpu" else nullcontext():
                return self._finish(elapsed)
        except BaseException:  # the rollout is gone, but its steps were taken
            self._unread = False
            if self.log.is_open and not stepping:
                self._count(taken)
            # Otherwise they are counted, or some copies took a step that was not recorded.
            self.log.drop_uncounted()
            raise

    def _store(self, t: int, step: TensorStep) -> None:
        """Copy a step into row t of the buffers."""
        b, self.obs = self.buffers, step.obs
        b.rewards[t], b.terminated[t], b.truncated[t] = (
            step.rewards,
            step.terminated,
            step.truncated,
        )
        known = step.final_obs is not None
        if step.final_obs is not None:
            self.final_obs[t] = step.final_obs
        if self.view is not None:
            known &= self.view.store_final(t, step)
        if not known or step.final_rows is not None:
            self.known = self._flags(self.known)
        if step.valid is not None:
            self.valid = self._flags(self.valid)
        if self.known is not None:
            _put(self.known[t], step.final_rows if known and step.final_rows is not None else known)
        if self.valid is not None:
            _put(self.valid[t], True if step.valid is None else step.valid)

    def _started(self, t: int) -> Tensor:
        """Copies [E] whose next row begins an episode: they ended, or were reset in this step."""
        ended = self.buffers.terminated[t] | self.buffers.truncated[t]
        return ended if self.valid is None else ended | ~self.valid[t]

    def _flags(self, flags: Tensor | None) -> Tensor:
        """Flags [T, E] that hold, made when the first is needed."""
        return torch.ones_like(self.buffers.terminated) if flags is None else flags

    def _count_previous(self) -> None:
        """Count a rollout whose update was interrupted, leave out one that itself was."""
        if self._unread:
            self.episodes()
        self.log.drop_uncounted()

    def _finish(self, elapsed: Tensor) -> Rollout:
        b, valid = self.buffers, self.valid
        assert self.obs is not None
        if self.view is not None:
            last = self.view.value_rollout(b.values)
        elif self.memory is not None:
            last = self.memory.last_values(self._shown(self.obs))
        else:
            last = self.actor.values(self._shown(self.obs))
        final_values = self._final_values()
        following = next_values(b.values, last, b.terminated, b.truncated, final_values)
        if valid is not None and not self.asynchronous and bool(valid.all()):
            valid = None
        extra: dict[str, Any] = {"valid": valid, "view": self.view, "ended": self.episodes}
        if self.memory is not None:
            extra |= {"starts": self.memory.starts, "states": self.memory.states}
        rollout = b.rollout(following, elapsed, **extra)
        self._unread = True
        if not self.asynchronous:
            rollout.read_episodes()
        return rollout

    def _final_values(self) -> Tensor:
        """[T, E]: the value of what a truncated row led to; without a final observation that of the
        state it was taken in.
        """
        b, known = self.buffers, self.known
        if self.asynchronous:  # selecting rows would wait: valuing all of them is one more forward
            flat = torch.arange(b.values.numel(), device=b.values.device)
            every = self._value_final(flat // self.layout.envs, flat % self.layout.envs)
            every = every.view_as(b.values)
            return every if known is None else torch.where(known, every, b.values)
        result = torch.zeros_like(b.values) if known is None else b.values.clone()
        cut = b.truncated if known is None else b.truncated & known
        times, copies = cut.nonzero(as_tuple=True)
        if len(times):
            result[times, copies] = self._value_final(times, copies)
        return result

    def _value_final(self, times: Tensor, copies: Tensor) -> Tensor:
        """Values [N] of what some rows led to."""
        if self.view is not None:
            return self.view.values(self.view.final[times, copies])
        obs = self._shown(self.final_obs[times, copies])
        if self.memory is not None:
            return self.memory.values_after(times, copies, obs)
        return self.actor.values(obs)

    def _shown(self, obs: Tensor) -> Tensor:
        obs = obs.to(self.layout.dtype)
        return obs if self.normaliser is None or self.fused else self.normaliser(obs)

    def episodes(self) -> tuple[list[float], list[int]]:
        """Returns and lengths of the episodes that ended in the last rollout; waits for the
        device.
        """
        self._unread = False
        return self._count(self.layout.steps)

    def _count(self, rows: int) -> tuple[list[float], list[int]]:
        """Account for the first ``rows`` of the buffers."""
        b = self.buffers
        done = (b.terminated | b.truncated)[:rows].cpu().numpy()
        valid = None if self.valid is None else self.valid[:rows].cpu().numpy()
        return self.log.add(b.rewards[:rows].cpu().numpy(), done, valid)

    def state(self) -> dict[str, Any]:
        """What collecting goes on from, the environment's own state apart."""
        self._count_previous()
        returns, lengths = torch.from_numpy(self.log.returns), torch.from_numpy(self.log.lengths)
        state = {"obs": self.obs, "returns": returns.clone(), "lengths": lengths.double()}
        if self.memory is not None:
            state |= self.memory.state()
        return state if self.view is None else state | {"critic_view": self.view.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        layout, device, obs = self.layout, self.layout.device, state["obs"]
        dtype = obs.dtype if obs.is_floating_point() else layout.dtype
        self.obs = check_array("state: obs", obs, (layout.envs, layout.obs_dim), dtype).to(device)
        counts = {}
        for name in ("returns", "lengths"):
            nan, one = name == "returns", (layout.envs,)  # unknown returns are NaN
            counts[name] = check_array(f"state: {name}", state[name], one, torch.float64, nan=nan)
        if bool((counts["lengths"] < 0.0).any()):
            raise fail("state: lengths", "numbers of at least 0", "some below")
        if self.view is not None:
            self.view.load_state(state["critic_view"])
        self.log = EpisodeLog(layout.envs)
        self.log.returns = counts["returns"].cpu().numpy().copy()
        self.log.lengths = counts["lengths"].long().cpu().numpy().copy()
        self._unread = False
        if self.memory is not None:
            self.memory.load_state(state)

    def unsupported(self) -> str | None:
        if all(callable(getattr(self.env, name, None)) for name in ("state", "load_state")):
            return None
        return f"{type(self.env).__name__} has no state() and load_state()"

    def env_state(self) -> dict[str, Any] | None:
        return None if self.unsupported() else self.env.state()  # type: ignore[attr-defined]

    def load_env_state(self, state: dict[str, Any]) -> None:
        """Bring the environment to a saved state; one of ours has parts of known kinds."""
        if isinstance(self.env, TensorEnv):
            for name, present in self.env.state().items():
                kind = tuple(present.shape), present.dtype
                check_array(f"envs: {name}", state[name], *kind)
            if bool((state["elapsed"] < 0).any()):
                raise fail("envs: elapsed", "integers of at least 0", "some below")
        self.env.load_state(state)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Nothing to end: a tensor environment has no processes."""


def _put(flags: Tensor, value: Tensor | bool) -> None:
    """Write flags [E], or one of the host's for all, which is filled in on the device."""
    if isinstance(value, Tensor):
        flags.copy_(value)
    else:
        flags.fill_(value)
