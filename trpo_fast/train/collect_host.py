"""Collecting from environments on the host (gymnasium's vector environments, EnvPool)."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._base.arguments import check_array, fail
from .._base.rows import Rows, map_rows
from ..envs.actions import ActionMap
from ..envs.gym.host import EnvError, HostEnvs
from ..envs.observations import Part
from ..learner.actor import Actor
from ..learner.advantage import next_values
from ..learner.normalise import Normaliser
from .collect_row import HostRow, HostRowOfParts
from .memory import memory_of
from .rollout import Buffers, EpisodeLog, Layout, Rollout


class HostCollector:
    """The loop around ``HostEnvs``. Per step: copy, normalise, act, step, three stores."""

    asynchronous = False  # the environments' host takes part in every step

    def __init__(
        self,
        envs: HostEnvs,
        actor: Actor,
        layout: Layout,
        action_map: ActionMap,
        normaliser: Normaliser | None = None,
    ) -> None:
        self.envs, self.actor, self.layout, self.action_map = envs, actor, layout, action_map
        self.normaliser = normaliser
        self.buffers = Buffers(layout, normaliser is not None)
        self.episodes = EpisodeLog(layout.envs)
        self.before_step: Callable[[int], None] | None = None  # vine saves states here
        self.env_seconds = 0.0  # of the last rollout, inside the environments
        self.obs: Any = None  # [E, O], or arrays of the parts
        self.mask: np.ndarray | None = None
        self.just_ended = np.zeros(
            layout.envs, bool
        )  # next-step autoreset: the coming row is a reset
        # An actor with the normaliser takes raw observations and leaves what its nets saw.
        self.fused = actor.normaliser is not None
        self.memory = memory_of(layout, actor)
        kind = HostRow if layout.parts is None else HostRowOfParts
        given = (actor, self.fused, self.memory)
        self._rows = [kind(self.buffers, t, *given) for t in range(layout.steps)]

    def start(self, seed: int | list[int] | None) -> None:
        """Reset every copy; the next rollout begins there."""
        obs, infos = self.envs.reset(seed)
        self._refuse_masks(infos, "reset")
        self.obs = map_rows(np.copy, obs)
        self.mask = self._mask_of(infos)
        self.episodes = EpisodeLog(self.layout.envs)
        self.just_ended[:] = False
        if self.memory is not None:
            self.memory.reset()

    def collect(self) -> Rollout:
        assert self.obs is not None, "start() comes before collect()"
        self.actor.recheck_nets()
        self.env_seconds = 0.0
        finals: list[tuple[int, int, Any]] = []
        same_step, obs, mask = self.envs.same_step, self.obs, self.mask
        valid = None if same_step else np.ones((self.layout.steps, self.layout.envs), bool)
        taken, stepping = 0, False
        if self.memory is not None:
            self.memory.open()
        self.episodes.open()
        elapsed = self.episodes.elapsed()
        try:
            for t, row in enumerate(self._rows):
                if self.before_step is not None:
                    self.before_step(t)
                self._store_obs(row, obs)
                if mask is not None:
                    row.mask[...] = mask
                if self.memory is not None:
                    self.memory.begin(t)
                row.act()
                actions = self.action_map.host(row.actions_array)
                begin, stepping = perf_counter(), True
                obs, rewards, terminated, truncated, infos = self.envs.step(actions)
                self.env_seconds += perf_counter() - begin
                row.rewards[...], row.terminated[...] = rewards, terminated
                row.truncated[...] = truncated
                if mask is not None:
                    mask = self._mask_of(infos)
                self.obs, self.mask = obs, mask
                if self.memory is not None:
                    started = terminated | truncated if same_step else self.just_ended
                    self.memory.stepped(torch.from_numpy(started))
                if valid is not None:
                    np.logical_not(self.just_ended, out=valid[t])
                    self.just_ended = terminated | truncated
                elif truncated.any():
                    cut = (truncated & ~terminated).nonzero()[0]
                    finals += [(t, int(e), self.envs.final_obs(infos, e)) for e in cut]
                taken, stepping = t + 1, False
            self._refuse_masks(infos, "step")
            return self._finish(finals, valid, elapsed)
        except BaseException:  # the rollout is gone, but its steps were taken
            if self.episodes.is_open and not stepping:
                self._count(taken, valid)
            # Otherwise they are counted, or some copies took a step that was not recorded.
            self.episodes.drop_uncounted()
            raise

    def _count(self, rows: int, valid: np.ndarray | None) -> tuple[list[float], list[int]]:
        """Account for the first ``rows`` of the buffers; what ended there."""
        b = self.buffers
        done = b.terminated.numpy() | b.truncated.numpy()
        counted = None if valid is None else valid[:rows]
        return self.episodes.add(b.rewards.numpy()[:rows], done[:rows], counted)

    def _store_obs(self, row: HostRow, obs: Any) -> None:
        """Store the observation, raw and as the policy sees it, and stop at the first
        non-finite one.
        """
        if not row.store(obs):
            self._check_finite(row.raw, row.time)
        if self.normaliser is not None and not self.fused:
            row.show(self.normaliser.on_host(row.raw))

    def _check_finite(self, obs: Any, time: int) -> None:
        self.envs.check_finite(
            obs, lambda copy: f"observation of copy {copy}, {time} steps into the rollout"
        )

    def _values_of(self, finals: list[tuple[int, int, Any]]) -> Tensor:
        """[T, E]: the value of the observation that an episode was truncated at, and else zero."""
        result = torch.zeros_like(self.buffers.values)
        if finals:
            times, copies, observations = zip(*finals, strict=True)
            first, *others = observations
            rows = map_rows(lambda *parts: np.stack(parts), first, *others)
            self.envs.check_finite(
                rows,
                lambda i: (
                    f"final observation of copy {copies[i]}, {times[i] + 1} steps into the rollout"
                ),
            )
            at, shown = (list(times), list(copies)), self._shown(rows)
            memory = self.memory
            found = self.actor.values(shown) if memory is None else memory.values_after(*at, shown)
            result[at] = found
        return result

    def _finish(
        self,
        finals: list[tuple[int, int, Any]],
        valid: np.ndarray | None,
        elapsed: Tensor,
    ) -> Rollout:
        b = self.buffers
        rewards = b.rewards.numpy()
        with np.errstate(over="ignore"):
            total = float(rewards.sum())
        if not math.isfinite(total) and not np.isfinite(rewards).all():
            time, copy = (int(i) for i in np.argwhere(~np.isfinite(rewards))[0])
            raise EnvError(
                f"{self.envs.label()} returned reward {rewards[time, copy]} from copy {copy}, "
                f"{time} steps into the rollout"
            )
        assert self.obs is not None
        self._check_finite(self.obs, self.layout.steps)
        shown, memory = self._shown(self.obs), self.memory
        last = self.actor.values(shown) if memory is None else memory.last_values(shown)
        final_values = self._values_of(finals) if valid is None else None
        following = next_values(b.values, last, b.terminated, b.truncated, final_values)
        returns, lengths = self._count(self.layout.steps, valid)
        kept = None if valid is None or valid.all() else torch.from_numpy(valid)
        extra = {} if memory is None else {"starts": memory.starts, "states": memory.states}
        return b.rollout(following, elapsed, valid=kept, returns=returns, lengths=lengths, **extra)

    def _shown(self, obs: Any) -> Rows:
        if self.layout.parts is None:
            tensors = torch.from_numpy(np.array(obs, np.float32)).to(self.layout.dtype)
        else:
            tensors = map_rows(lambda part: torch.from_numpy(np.copy(part)), obs)
        if self.normaliser is None or self.fused:
            return tensors
        return self.normaliser(tensors)

    def _mask_of(self, infos: dict[str, Any]) -> np.ndarray | None:
        if not self.layout.mask_width:
            return None
        return self.envs.masks(infos, self.layout.mask_width)

    def _refuse_masks(self, infos: dict[str, Any], call: str) -> None:
        """Refuse masks that this policy would not use."""
        if not self.layout.mask_width and "action_mask" in infos:
            space = self.envs.action_space
            why = f"a policy for {space} takes none"
            if self.layout.discrete:
                why = "one has to come with every reset as well"
            raise EnvError(
                f"{self.envs.label()} gives action_mask in the info of {call}, expected none: {why}"
            )

    def state(self) -> dict[str, Any]:
        """What collecting goes on from, the environments' own states apart."""
        assert self.obs is not None
        self.episodes.drop_uncounted()
        return {
            "obs": map_rows(np.array, self.obs),
            "mask": None if self.mask is None else np.array(self.mask),
            "just_ended": self.just_ended.copy(),
            "returns": self.episodes.returns.copy(),
            "lengths": self.episodes.lengths.copy(),
            **({} if self.memory is None else self.memory.state()),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        layout, mask = self.layout, state["mask"]
        obs = self._checked(state["obs"])
        if layout.mask_width:
            check_array("state: mask", mask, (layout.envs, layout.mask_width), bool)
            self.envs.masks({"action_mask": mask}, layout.mask_width)
        elif mask is not None:
            raise fail("state: mask", "none", "one")
        one = (layout.envs,)
        self.just_ended = check_array("state: just_ended", state["just_ended"], one, bool)
        log = self.episodes  # unknown returns are NaN
        log.returns = check_array("state: returns", state["returns"], one, np.float64, nan=True)
        log.lengths = check_array("state: lengths", state["lengths"], one, np.int64)
        if (log.lengths < 0).any():
            raise fail("state: lengths", "integers of at least 0", log.lengths)
        self.obs, self.mask = obs, mask
        if self.memory is not None:
            self.memory.load_state(state)

    def _checked(self, obs: Any) -> Any:
        """Saved observations, which have to be of this environment's kind."""
        layout = self.layout
        if layout.parts is None:
            return check_array("state: obs", obs, (layout.envs, layout.obs_dim), np.float32)

        def checked(part: Part, value: Any) -> Any:
            return check_array("state: obs", value, (layout.envs, *part.shape), part.dtype.type)

        return map_rows(checked, layout.parts, obs)

    def unsupported(self) -> str | None:
        return self.envs.unsupported()

    def env_state(self) -> list[dict[str, Any]] | None:
        """The environments' exact states, or None where they cannot be had."""
        return None if self.unsupported() else self.envs.state()

    def load_env_state(self, states: list[dict[str, Any]]) -> None:
        self.envs.load_state(states)

    def close(self) -> None:
        self.envs.close()
