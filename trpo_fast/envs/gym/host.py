"""Environments that live on the host: gymnasium's vector environments and EnvPool, behind one
interface.

Autoreset differs between them, and a wrong guess trains on rows that never happened:

    same step   a finished copy is reset within the call: ``obs`` is the new episode's first
                observation, ``final_obs`` the one the action led to; every row is a transition
    next step   ``obs`` is the final observation; the following call resets and ignores the action,
                and that row is no transition

We ask gymnasium for the first, which wastes no call; EnvPool and vector environments made by the
user may be the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..._base.rows import map_rows
from ..errors import EnvError, describe_step, shape_error
from ..flat import check_flat, keeps_structure
from ..observations import Part, arranged, parts_of_space, unusable
from .access import Access


class HostEnvs:
    """A vector environment with known autoreset and errors that can be read. Observations are flat
    float32 [E, O]; or, where they are to stay as they are, arrays of their ``parts``.
    """

    def __init__(
        self,
        venv: Any,
        access: Access,
        *,
        name: str = "",
        same_step: bool,
        takes_seeds: bool = True,
        structured: bool | None = False,
    ) -> None:
        self.venv, self.access, self.name, self.same_step = venv, access, name, same_step
        self.takes_seeds = takes_seeds  # one for each copy; otherwise one for all
        self.num_envs: int = venv.num_envs
        self.observation_space = venv.single_observation_space
        self.action_space = venv.single_action_space
        self.parts: Any = None  # dicts and tuples of Part; None where observations are flat
        try:
            self._check_space(structured)
        except ValueError:
            venv.close()
            raise
        flat = self.parts is None
        self.obs_dim = int(np.prod(self.observation_space.shape)) if flat else 0
        self._shape = (self.num_envs, self.obs_dim)

    def _check_space(self, structured: bool | None) -> None:
        """See what observations are; ``parts`` of those that are more than a vector."""
        space = self.observation_space
        if keeps_structure(space, structured):
            parts = parts_of_space(space)
            if not isinstance(parts, Part) or parts.size is None:
                self.parts = parts
                return
        if space.shape is None:  # whatever flattened them
            wanted = "Box, Discrete, MultiBinary, MultiDiscrete, or Dict and Tuple of them"
            raise ValueError(f"observation_space: expected {wanted}, got {space}")
        check_flat(space)

    def reset(self, seed: int | list[int] | None = None) -> tuple[Any, dict[str, Any]]:
        """First observations [E, O] and infos."""
        with self.named("reset"):
            obs, infos = self.venv.reset(seed=seed)
        return self._flat(obs), infos

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Observations [E, O], rewards, terminated, truncated [E], infos. The arrays may be
        reused by the next call.
        """
        try:  # as ``named`` does, without its microsecond
            obs, rewards, terminated, truncated, infos = self.venv.step(actions)
        except Exception as error:
            why = describe_step(error, self.venv)
            raise EnvError(f"{self.label()} failed in step: {why}") from error
        return self._flat(obs), rewards, terminated, truncated, infos

    def _flat(self, obs: Any) -> Any:
        if self.parts is not None:
            return arranged(self.parts, obs, self.num_envs, self.label())
        flat = np.asarray(obs, np.float32)
        if flat.shape != self._shape:
            if flat.size != self.num_envs * self.obs_dim:
                raise EnvError(
                    f"{self.label()} returned observations of shape {list(flat.shape)}, "
                    f"expected {[self.num_envs, *self.observation_space.shape]}"
                )
            flat = flat.reshape(self._shape)
        return flat

    def final_obs(self, infos: dict[str, Any], index: int) -> Any:
        """A copy of the observation [O] that ended the episode of copy ``index`` (same-step
        autoreset only).
        """
        if self.parts is not None:
            final = arranged(self.parts, infos["final_obs"][index], None, self.label())
            return map_rows(np.copy, final)
        final = np.array(infos["final_obs"][index], np.float32)
        if final.size != self.obs_dim:
            why = shape_error(final, self.observation_space.shape, f" from copy {index}")
            raise EnvError(f"{self.label()} failed in step: {why}")
        return final.reshape(-1)

    def check_finite(self, obs: Any, which: Callable[[int], str]) -> None:
        """Refuse observations [N, O] that are not finite, or have parts that are none of their
        choices; ``which`` says what row i is.
        """
        if self.parts is not None:
            if found := unusable(self.parts, obs):
                row, what = found
                raise EnvError(f"{self.label()} returned {what} in the {which(row)}")
            return
        bad = ~np.isfinite(obs)
        if bad.any():
            row, component = (int(i) for i in np.argwhere(bad)[0])
            raise EnvError(
                f"{self.label()} returned {obs[row, component]} as component {component} "
                f"of the {which(row)}"
            )

    def masks(self, infos: dict[str, Any], width: int) -> np.ndarray:
        """Every copy's ``action_mask`` [E, Z]; gymnasium stacks arrays, but not lists or tuples."""
        given = infos.get("action_mask", ())
        if isinstance(given, np.ndarray) and given.dtype == object:
            given = list(given)
        try:
            masks = np.asarray(given, bool).reshape(self.num_envs, width)
        except ValueError as error:
            raise EnvError(
                f"{self.label()} gave action_mask {given!r} in its info, expected {width} choices "
                f"for each of {self.num_envs} copies"
            ) from error
        if not masks.any(1).all():
            raise EnvError(f"{self.label()} masks every action of copy {masks.any(1).argmin()}")
        return masks

    @contextmanager
    def named(self, call: str) -> Iterator[None]:
        """What goes wrong inside, as a sentence about this environment."""
        try:
            yield
        except Exception as error:
            why = describe_step(error, self.venv)
            raise EnvError(f"{self.label()} failed in {call}: {why}") from error

    def label(self) -> str:
        return f"environment {self.name}" if self.name else f"environment {self.venv}"

    def unsupported(self) -> str | None:
        """Why exact states cannot be saved, or None where they can."""
        with self.named("unsupported"):
            return self.access.unsupported()

    def state(self, copies: list[int] | None = None) -> list[dict[str, Any]]:
        """One exact state per copy, of all or of the given ones."""
        with self.named("snapshot"):
            return self.access.snapshot(range(self.num_envs) if copies is None else copies)

    def load_state(self, states: list[dict[str, Any]]) -> None:
        if len(states) != self.num_envs:
            raise ValueError(f"state: expected {self.num_envs} environments, got {len(states)}")
        self.reset(seed=0)  # wrappers refuse a step before the first reset
        with self.named("restore"):
            self.access.restore(states)

    def close(self) -> None:
        """End the environments; where a worker process has died, kill the others."""
        try:
            self.venv.close()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            for process in getattr(self.venv, "processes", ()):
                process.kill()
                process.join()
