"""What the processes that step environments share: a board of arrays and, for each worker, a wire.

The board lies in anonymous shared memory: it has no name that could outlive its processes. A wire
is two bells and four numbers. Whoever waits looks for a while whether it is its turn (an answer
comes within microseconds, waking a process takes tens of them) and then sleeps, so a worker costs
nothing while the learner works. Bells are semaphores, which order memory as well: what was written
before one rang is there once the other side has heard it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Looks at a bell before going to sleep, 42 ns each. With 40 us of work and a bell every 70 us the
# handshake costs 7 us; 63 asleep. Hopper, whose steps last longer: 550 us a step; 580 with 3000.
SPINS = 10_000
# Two busy processes on the two cores: 19 800 CartPole steps/s, 14 100 without naps.
NAPS = 63

ASKED, ANSWERED, COMMAND, STATUS = range(4)  # Wire.numbers; an order is its count, ASKED
STEP, CALL, CLOSE = range(3)  # commands: on the board; (method, arguments) in the pipe; the end
SILENT, SPOKE, FAILED = range(3)  # status of an answer: nothing, a result or an error in the pipe


class Board:
    """Arrays with a row per copy, in memory that every process sees."""

    actions: np.ndarray  # [E, ...] in the environment's units
    obs: np.ndarray  # [E, O] float32
    final_obs: np.ndarray  # [E, O] float32, of the copies whose episode ended in the last step
    rewards: np.ndarray  # [E]
    terminated: np.ndarray  # [E] bool
    truncated: np.ndarray  # [E] bool

    def __init__(self, context: Any, copies: int, obs_dim: int, actions: Any) -> None:
        rows: dict[str, tuple[Any, tuple[int, ...]]] = {
            # A space without a dtype (a tuple of spaces) has no policy that could act in it.
            "actions": (actions.dtype or np.int64, actions.shape or ()),
            "obs": (np.float32, (obs_dim,)),
            "final_obs": (np.float32, (obs_dim,)),
            "rewards": (np.float64, ()),
            "terminated": (np.bool_, ()),
            "truncated": (np.bool_, ()),
        }
        self._parts = {}
        for name, (dtype, shape) in rows.items():
            size = max(1, copies * int(np.prod(shape)) * np.dtype(dtype).itemsize)
            self._parts[name] = (context.RawArray("b", size), dtype, (copies, *shape))
        self._map()

    def _map(self) -> None:
        for name, (memory, dtype, shape) in self._parts.items():
            count = int(np.prod(shape))
            setattr(self, name, np.frombuffer(memory, dtype, count).reshape(shape))

    def __getstate__(self) -> Any:
        return self._parts  # the memory itself; arrays would travel as copies

    def __setstate__(self, parts: Any) -> None:
        self._parts = parts
        self._map()


class Bell:
    """Rung by one process, waited for by another: awake at first, then asleep.

    A miss is a wait that was not over in time. One is nothing, the learner may be at work; more in
    a row let the next waits sleep at once, up to ``NAPS``, until a hit ends that. So spinning costs
    little where other programs hold the cores.
    """

    def __init__(self, context: Any) -> None:
        self._semaphore = context.Semaphore(0)
        self.misses = 0  # in a row
        self._naps = 0  # waits to come that sleep at once

    def ring(self) -> None:
        self._semaphore.release()

    def wait(self, patience: float | None = None) -> bool:
        """Until it rings; False after ``patience`` seconds asleep."""
        acquire = self._semaphore.acquire
        if self._naps:
            self._naps -= 1
        else:
            for _ in range(SPINS):
                if acquire(False):
                    self.misses = 0
                    return True
            self.misses += 1
            self._naps = min(2 ** (self.misses - 1) - 1, NAPS)
        return bool(acquire(True, patience))


class Wire:
    """Orders to one worker and its answers."""

    def __init__(self, context: Any) -> None:
        self.go, self.done = Bell(context), Bell(context)
        self.numbers = context.RawArray("q", 4)
