"""Who steps the copies of an environment on the host: an engine is a function that makes them.

A new one goes into ``HostEngine`` of _base/choices.py and into ``ENGINES``; how its states can be
had, into gym/access.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._base.choices import HostEngine
from .._base.seeds import derive
from .errors import EnvError, WorkerError
from .flat import keeps_structure, refuse_images
from .gym.access import Access, Copies, NoAccess, Processes, Stateful
from .gym.host import HostEnvs
from .workers.pool import WorkerEnvs

MAX_COPIES = 65_536  # copies of an environment on the host


@dataclass(frozen=True)
class EnvRequest:
    """What an engine is asked for."""

    env: Any  # a gymnasium id or a function that makes one environment
    num_envs: int
    workers: int | None = None
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)  # of gymnasium.make, for an id
    structured: bool | None = False  # observations as they are; None: where there are images

    @property
    def name(self) -> str:
        return self.env if isinstance(self.env, str) else getattr(self.env, "__name__", "env")

    def maker(self) -> Callable[[], Any]:
        """A function that makes one copy, with flat observations unless they are to stay."""
        if isinstance(self.env, str):
            return _Flattened(_GymnasiumMaker(self.env, self.options), self.structured)
        if callable(self.env):
            return _Flattened(self.env, self.structured)
        raise ValueError(
            "env: expected a gymnasium id, a function that makes an environment, "
            f"a vector environment or a tensor environment, got {type(self.env).__name__}"
        )


def make_host(env: Any, num_envs: int, *, engine: HostEngine = "sync", **request: Any) -> HostEnvs:
    """Host environments from a gymnasium id, a function that makes one environment, or a vector
    environment, which brings an engine of its own; ``request`` are the fields of ``EnvRequest``.
    """
    import gymnasium

    if isinstance(env, gymnasium.vector.VectorEnv):
        return _from_vector_env(env, request.get("structured", False))
    if engine not in ENGINES:
        raise ValueError(f"engine: expected one of {tuple(ENGINES)}, got {engine!r}")
    if num_envs > MAX_COPIES:
        raise ValueError(
            f"num_envs: expected at most {MAX_COPIES} copies with engine={engine!r}, got "
            f"{num_envs}; engine='tensor' has room for more"
        )
    return ENGINES[engine](EnvRequest(env, num_envs, **request))


def _sync(request: EnvRequest) -> HostEnvs:
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    makers = [request.maker()] * request.num_envs
    venv = SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
    access = Copies(venv.envs)
    return HostEnvs(venv, access, name=request.name, same_step=True, structured=request.structured)


def _workers(request: EnvRequest) -> HostEnvs:
    makers = [request.maker()] * request.num_envs
    try:
        kept = request.structured
        venv = WorkerEnvs(makers, request.workers, seed=request.seed, structured=kept)
    except WorkerError as error:
        raise EnvError(f"environment {request.name} failed to start: {error}") from error
    return HostEnvs(venv, venv, name=request.name, same_step=True, structured=request.structured)


def _async(request: EnvRequest) -> HostEnvs:
    from gymnasium.vector import AsyncVectorEnv, AutoresetMode

    makers = [Stateful(request.maker(), index) for index in range(request.num_envs)]
    venv = AsyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)
    access = Processes(venv)
    return HostEnvs(venv, access, name=request.name, same_step=True, structured=request.structured)


def _envpool(request: EnvRequest) -> HostEnvs:
    env = request.env
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
    options = {"num_envs": request.num_envs, **request.options}
    venv = _SeededPool(
        lambda seed: envpool.make_gymnasium(env, seed=seed, **options),
        derive(request.seed, "batch", 0),
    )
    access = NoAccess("EnvPool keeps its states to itself")
    kept = request.structured
    return HostEnvs(venv, access, name=env, same_step=False, takes_seeds=False, structured=kept)


ENGINES: dict[HostEngine, Callable[[EnvRequest], HostEnvs]] = {
    "sync": _sync,
    "workers": _workers,
    "async": _async,
    "envpool": _envpool,
}


class _SeededPool:
    """An EnvPool as a vector environment of gymnasium's. A pool takes its seed when it is made and
    none afterwards, so it is made anew for another one; the same one goes on.
    """

    def __init__(self, make: Callable[[int], Any], seed: int) -> None:
        self._make = make
        self._start(seed)

    def _start(self, seed: int) -> None:
        self._seed = seed
        self._pool = self._make(seed % 2**31)
        self.num_envs: int = self._pool.num_envs
        self.single_observation_space = self._pool.observation_space
        self.single_action_space = self._pool.action_space
        self.step = self._pool.step

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None and seed != self._seed:
            self._pool.close()
            self._start(seed)
        return self._pool.reset()

    def close(self) -> None:
        self._pool.close()


def _from_vector_env(venv: Any, structured: bool | None) -> HostEnvs:
    """A vector environment that the user made."""
    import gymnasium
    from gymnasium.vector import AutoresetMode

    mode = venv.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        raise ValueError(f"env: expected a vector environment that resets itself, got {mode}")
    space = venv.single_observation_space
    if not keeps_structure(space, structured) and not isinstance(space, gymnasium.spaces.Box):
        refuse_images(space)
        venv = gymnasium.wrappers.vector.FlattenObservation(venv)
    same_step = mode == AutoresetMode.SAME_STEP
    access: Access
    if not same_step:
        access = NoAccess(
            "a vector environment with next-step autoreset keeps part of its state to itself"
        )
    elif hasattr(venv, "envs"):
        access = Copies(venv.envs)
    else:
        access = NoAccess(f"{type(venv).__name__} does not give access to its environments")
    known = (gymnasium.vector.SyncVectorEnv, gymnasium.vector.AsyncVectorEnv)
    takes_seeds = isinstance(venv.unwrapped, known)
    return HostEnvs(
        venv, access, same_step=same_step, takes_seeds=takes_seeds, structured=structured
    )


class _GymnasiumMaker:
    """gymnasium.make as a function that a worker process can be sent."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name, self.options = name, options

    def __call__(self) -> Any:
        import gymnasium

        return gymnasium.make(self.name, **self.options)


class _Flattened:
    """Makes one environment, and flattens observations that are no Box, unless they are to stay."""

    def __init__(self, build: Callable[[], Any], structured: bool | None) -> None:
        self.build, self.structured = build, structured

    def __call__(self) -> Any:
        import gymnasium

        env = self.build()
        if not isinstance(env, gymnasium.Env):
            raise ValueError(
                f"env: expected a function that makes a gymnasium.Env, got {type(env)}"
            )
        space = env.observation_space
        kept = keeps_structure(space, self.structured)
        if not kept and not isinstance(space, gymnasium.spaces.Box):
            refuse_images(space)
            env = gymnasium.wrappers.FlattenObservation(env)
        return env
