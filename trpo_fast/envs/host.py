"""Environments that live on the host: gymnasium's vector environments and EnvPool, behind one
interface.

Autoreset differs between them, and a wrong guess trains on rows that never happened:
    same step   a finished copy is reset within the call; ``obs`` is the new episode's first
    observation and the one
                the action led to comes as ``final_obs``: every row is a transition
    next step   ``obs`` is the final observation, the following call resets and ignores the action:
    that row is none
We ask gymnasium for the first, which wastes no call; EnvPool and vector environments made by the
user may be the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .errors import EnvError, WorkerError, describe
from .state import restore, snapshot, unsupported
from .workers import WorkerEnvs

ENGINES = ("sync", "workers", "async", "envpool")


class HostEnvs:
    """A vector environment with flat float32 observations, known autoreset, and errors that can
    be read.
    """

    def __init__(
        self, venv: Any, *, name: str = "", same_step: bool, envpool: bool = False
    ) -> None:
        self.venv, self.name, self.same_step, self.envpool = venv, name, same_step, envpool
        self.num_envs: int = venv.num_envs
        self.observation_space = (
            venv.observation_space if envpool else venv.single_observation_space
        )
        self.action_space = venv.action_space if envpool else venv.single_action_space
        self.obs_dim = int(np.prod(self.observation_space.shape))
        self._shape = (self.num_envs, self.obs_dim)

    def reset(self, seed: int | list[int] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """First observations [E, O] and infos."""
        with self._named("reset"):
            obs, infos = self.venv.reset() if self.envpool else self.venv.reset(seed=seed)
        return self._flat(obs), infos

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, Any, Any, Any, dict[str, Any]]:
        """Observations [E, O], rewards, terminated, truncated [E], infos. The arrays may be
        reused by the next call.
        """
        try:  # as _named does, without its microsecond
            obs, rewards, terminated, truncated, infos = self.venv.step(actions)
        except Exception as error:
            raise EnvError(f"{self.label()} failed in step: {describe(error)}") from error
        return self._flat(obs), rewards, terminated, truncated, infos

    def _flat(self, obs: Any) -> np.ndarray:
        flat = np.asarray(obs, np.float32)
        if flat.shape != self._shape:
            if flat.size != self.num_envs * self.obs_dim:
                raise EnvError(
                    f"{self.label()} returned observations of shape {list(flat.shape)}, "
                    f"expected {[self.num_envs, *self.observation_space.shape]}"
                )
            flat = flat.reshape(self._shape)
        return flat

    def final_obs(self, infos: dict[str, Any], index: int) -> np.ndarray:
        """A copy of the observation [O] that ended the episode of copy ``index`` (same-step
        autoreset only).
        """
        return np.array(infos["final_obs"][index], np.float32).reshape(-1)

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
    def _named(self, call: str) -> Iterator[None]:
        """What goes wrong inside, as a sentence about this environment."""
        try:
            yield
        except Exception as error:
            raise EnvError(f"{self.label()} failed in {call}: {describe(error)}") from error

    def label(self) -> str:
        return f"environment {self.name}" if self.name else f"environment {self.venv}"

    def unsupported(self) -> str | None:
        """Why exact states cannot be saved, or None where they can."""
        if self.envpool:
            return "EnvPool keeps its states to itself"
        if not self.same_step:
            return "a vector environment with next-step autoreset keeps part of its state to itself"
        if isinstance(self.venv, WorkerEnvs):
            with self._named("unsupported"):
                return self.venv.unsupported()
        if hasattr(self.venv, "envs"):
            return next((why for env in self.venv.envs if (why := unsupported(env))), None)
        if _is_async(self.venv):
            return next((why for why in self.venv.call("unsupported") if why), None)
        return f"{type(self.venv).__name__} does not give access to its environments"

    def state(self, copies: list[int] | None = None) -> list[dict[str, Any]]:
        """One exact state per copy, of all or of the given ones."""
        indices = range(self.num_envs) if copies is None else copies
        if isinstance(self.venv, WorkerEnvs):
            with self._named("snapshot"):
                return self.venv.snapshot(indices)
        if _is_async(self.venv):
            states = self.venv.call("snapshot")
            return [states[i] for i in indices]
        return [snapshot(self.venv.envs[i]) for i in indices]

    def load_state(self, states: list[dict[str, Any]]) -> None:
        if len(states) != self.num_envs:
            raise ValueError(f"state: expected {self.num_envs} environments, got {len(states)}")
        self.reset(seed=0)  # wrappers refuse a step before the first reset
        if isinstance(self.venv, WorkerEnvs):
            with self._named("restore"):
                self.venv.restore(states)
            return
        if _is_async(self.venv):
            self.venv.call("restore", states)
            return
        for env, saved in zip(self.venv.envs, states, strict=True):
            restore(env, saved)

    def close(self) -> None:
        self.venv.close()


def _is_async(venv: Any) -> bool:
    return type(venv).__name__ == "AsyncVectorEnv"


def make_host(
    env: Any,
    num_envs: int,
    *,
    engine: str = "sync",
    workers: int | None = None,
    seed: int = 0,
    options: dict[str, Any] | None = None,
) -> HostEnvs:
    """Host environments from a gymnasium id, a function that makes one environment, or a vector
    environment.
    """
    import gymnasium

    options = options or {}
    if isinstance(env, gymnasium.vector.VectorEnv):
        return _wrap_vector(env)
    if engine not in ENGINES:
        raise ValueError(f"engine: expected one of {ENGINES}, got {engine!r}")
    if engine == "envpool":
        return _make_envpool(env, num_envs, seed, options)
    if isinstance(env, str):
        name, build = env, _Maker(env, options)
    elif callable(env):
        name, build = getattr(env, "__name__", "env"), env
    else:
        raise ValueError(
            "env: expected a gymnasium id, a function that makes an environment, "
            f"a vector environment or a tensor environment, got {type(env).__name__}"
        )
    makers = [_Flattened(build, index if engine == "async" else None) for index in range(num_envs)]
    if engine == "workers":
        try:
            venv = WorkerEnvs(makers, workers, seed=seed)
        except WorkerError as error:
            raise EnvError(f"environment {name} failed to start: {error}") from error
        return HostEnvs(venv, name=name, same_step=True)
    mode = gymnasium.vector.AutoresetMode.SAME_STEP
    kinds = {"sync": gymnasium.vector.SyncVectorEnv, "async": gymnasium.vector.AsyncVectorEnv}
    return HostEnvs(
        kinds[engine](makers, copy=False, autoreset_mode=mode), name=name, same_step=True
    )


class _Maker:
    """gymnasium.make as a function that a worker process can be sent."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name, self.options = name, options

    def __call__(self) -> Any:
        import gymnasium

        return gymnasium.make(self.name, **self.options)


class _Flattened:
    """Makes one environment, flattens observations that are no Box, and adds the state adapter
    in workers.
    """

    def __init__(self, build: Callable[[], Any], index: int | None) -> None:
        self.build, self.index = build, index

    def __call__(self) -> Any:
        import gymnasium

        env = self.build()
        if not isinstance(env, gymnasium.Env):
            raise ValueError(
                f"env: expected a function that makes a gymnasium.Env, got {type(env)}"
            )
        if not isinstance(env.observation_space, gymnasium.spaces.Box):
            env = gymnasium.wrappers.FlattenObservation(env)
        return env if self.index is None else _stateful(env, self.index)


def _stateful(env: Any, index: int) -> Any:
    """A wrapper whose methods a vector environment can ``call`` in its worker processes."""
    import gymnasium

    class Stateful(gymnasium.Wrapper):
        def snapshot(self) -> dict[str, Any]:
            return snapshot(self.env)

        def restore(self, states: list[dict[str, Any]]) -> None:
            restore(self.env, states[index])

        def unsupported(self) -> str | None:
            return unsupported(self.env)

    return Stateful(env)


def _wrap_vector(venv: Any) -> HostEnvs:
    import gymnasium
    from gymnasium.vector import AutoresetMode

    mode = venv.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        raise ValueError(f"env: expected a vector environment that resets itself, got {mode}")
    if not isinstance(venv.single_observation_space, gymnasium.spaces.Box):
        venv = gymnasium.wrappers.vector.FlattenObservation(venv)
    return HostEnvs(venv, same_step=mode == AutoresetMode.SAME_STEP)


def _make_envpool(env: Any, num_envs: int, seed: int, options: dict[str, Any]) -> HostEnvs:
    if not isinstance(env, str):
        raise ValueError(
            f"env: expected the name of an environment for EnvPool, got {type(env).__name__}"
        )
    try:
        import envpool
    except ImportError as error:
        raise EnvError(
            'engine="envpool" needs EnvPool: pip install "trpo-fast[envpool]"'
        ) from error
    if env not in envpool.list_all_envs():
        raise EnvError(f"EnvPool has no environment {env}; engine='sync' takes gymnasium's")
    venv = envpool.make_gymnasium(env, num_envs=num_envs, seed=seed, **options)
    return HostEnvs(venv, name=env, same_step=False, envpool=True)
