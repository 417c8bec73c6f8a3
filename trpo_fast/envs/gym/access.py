"""Exact states of the copies in a vector environment, by where the copies live. A new kind of
vector environment whose states can be had gets a class here.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..errors import WorkerError, shape_error
from .state import restore, snapshot, unsupported


class Access(Protocol):
    """Reads and writes states. ``WorkerEnvs`` is one; the others are below."""

    def unsupported(self) -> str | None:
        """Why exact states cannot be saved, or None where they can."""
        ...

    def snapshot(self, copies: Sequence[int]) -> list[dict[str, Any]]:
        """The exact states of these copies."""
        ...

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        """Bring every copy to its saved state."""
        ...


class Copies:
    """Environments in this process."""

    def __init__(self, envs: Sequence[Any]) -> None:
        self.envs = envs

    def unsupported(self) -> str | None:
        return next((why for env in self.envs if (why := unsupported(env))), None)

    def snapshot(self, copies: Sequence[int]) -> list[dict[str, Any]]:
        return [snapshot(self.envs[i]) for i in copies]

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        for env, saved in zip(self.envs, states, strict=True):
            restore(env, saved)


class Processes:
    """gymnasium's ``AsyncVectorEnv`` over environments that ``Stateful`` made."""

    def __init__(self, venv: Any) -> None:
        self.venv = venv

    def unsupported(self) -> str | None:
        return next((why for why in self.venv.call("unsupported") if why), None)

    def snapshot(self, copies: Sequence[int]) -> list[dict[str, Any]]:
        states = self.venv.call("snapshot")
        return [states[i] for i in copies]

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        self.venv.call("restore", states)


class NoAccess:
    """Environments whose states cannot be read, and why."""

    def __init__(self, why: str) -> None:
        self.why = why

    def unsupported(self) -> str | None:
        return self.why

    def snapshot(self, copies: Sequence[int]) -> list[dict[str, Any]]:
        raise ValueError(f"state: expected environments that can be saved, but {self.why}")

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        raise ValueError(f"state: expected environments that can be restored, but {self.why}")


class Stateful:
    """A maker of environments whose states ``Processes`` can ask for; ``index`` is the copy's.
    gymnasium's processes copy an observation into place whatever its shape, repeating numbers
    where some are missing: these environments check it first.
    """

    def __init__(self, build: Callable[[], Any], index: int) -> None:
        self.build, self.index, self.owner = build, index, os.getpid()

    def __call__(self) -> Any:
        import gymnasium

        if os.getpid() != self.owner:  # Ctrl-C is the main process's; gymnasium's would end by it
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        index = self.index

        class Checked(gymnasium.Wrapper):
            def reset(self, **options: Any) -> Any:
                obs, info = self.env.reset(**options)
                return self._checked(obs), info

            def step(self, action: Any) -> Any:
                obs, *rest = self.env.step(action)
                return self._checked(obs), *rest

            def _checked(self, obs: Any) -> Any:
                wanted = self.env.observation_space.shape
                if why := shape_error(obs, wanted, f" from copy {index}"):
                    raise WorkerError(why)
                return obs

            def snapshot(self) -> dict[str, Any]:
                return snapshot(self.env)

            def restore(self, states: list[dict[str, Any]]) -> None:
                restore(self.env, states[index])

            def unsupported(self) -> str | None:
                return unsupported(self.env)

        return Checked(self.build())
