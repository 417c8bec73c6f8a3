"""What the processes that step environments share: a board of arrays and, for each worker, a wire.

The board lies in anonymous shared memory: it has no name that could outlive its processes. A wire
is two semaphores and four numbers. Whoever waits asks for a while whether it is its turn (an answer
comes within microseconds, waking a process takes tens of them) and then sleeps, so a worker costs
nothing while the learner works and little where other programs want the cores. The semaphores also
order memory: what was written before a ``release`` is there after the ``acquire``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Before going to sleep; 42 ns each. CartPole's handshake: 7 us with 3000, 27 with 1000, 63 without.
SPINS = 3000

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


class Wire:
    """Orders to one worker and its answers."""

    def __init__(self, context: Any) -> None:
        self.go, self.done = context.Semaphore(0), context.Semaphore(0)
        self.numbers = context.RawArray("q", 4)


def take(semaphore: Any, patience: float | None = None) -> bool:
    """Wait for a semaphore, awake at first; False after ``patience`` seconds asleep."""
    acquire = semaphore.acquire
    for _ in range(SPINS):
        if acquire(False):
            return True
    return bool(acquire(True, patience))
