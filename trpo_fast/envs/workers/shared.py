"""What the processes that step environments share: arrays and, for each worker, a channel.

The arrays lie in anonymous shared memory: it has no name that could outlive its processes. A
channel is two semaphores and four numbers. A process that waits first spins (an answer comes within
microseconds, waking a process takes tens of them) and then sleeps, so a worker costs nothing while
the learner works. Semaphores order memory as well: what was written before a release is there after
the acquire that it ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..._base.rows import map_rows
from ..observations import Part

# Tries before going to sleep, 42 ns each. With 40 us of work and a release every 70 us the
# handshake costs 7 us; 63 asleep. Hopper, whose steps last longer: 550 us a step; 580 with 3000.
SPINS = 10_000
# Waits in a row that sleep without spinning, at most. Beside two busy processes on the two cores:
# 19 800 CartPole steps/s; 14 100 where every wait spins.
MAX_SPINLESS = 63

# Channel.numbers: orders given, orders followed, the last one's command, its answer's status.
ASKED, ANSWERED, COMMAND, STATUS = range(4)
STEP, CALL, CLOSE = range(3)  # commands: one step; (method, arguments) in the pipe; end
NOTHING, RESULT, FAILED = range(3)  # status of an answer: what is in the pipe


@dataclass(frozen=True)
class _Memory:
    """Where an array lies."""

    memory: Any
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def array(self) -> np.ndarray:
        count = int(np.prod(self.shape))
        return np.frombuffer(self.memory, self.dtype, count).reshape(self.shape)


class SharedArrays:
    """Arrays with a row per copy, in memory that every process sees."""

    actions: np.ndarray  # [E, ...] in the environment's units
    obs: Any  # [E, O] float32, or the parts of structured observations
    final_obs: Any  # as obs, of the copies whose episode ended in the last step
    rewards: np.ndarray  # [E]
    terminated: np.ndarray  # [E] bool
    truncated: np.ndarray  # [E] bool

    def __init__(self, context: Any, copies: int, obs: Any, actions: Any) -> None:
        rows: dict[str, Any] = {
            # A space without a dtype (a tuple of spaces) has no policy that could act in it.
            "actions": Part(actions.shape or (), np.dtype(actions.dtype or np.int64)),
            "obs": obs,
            "final_obs": obs,
            "rewards": Part((), np.dtype(np.float64)),
            "terminated": Part((), np.dtype(np.bool_)),
            "truncated": Part((), np.dtype(np.bool_)),
        }

        def memory(part: Part) -> Any:
            size = max(1, copies * int(np.prod(part.shape)) * part.dtype.itemsize)
            return _Memory(context.RawArray("b", size), part.dtype, (copies, *part.shape))

        self._parts = {name: map_rows(memory, parts) for name, parts in rows.items()}
        self._map()

    def _map(self) -> None:
        for name, parts in self._parts.items():
            setattr(self, name, map_rows(_Memory.array, parts))

    def __getstate__(self) -> Any:
        return self._parts  # the memory itself; arrays would travel as copies

    def __setstate__(self, parts: Any) -> None:
        self._parts = parts
        self._map()


class SpinSemaphore:
    """Released by one process, acquired by another, which spins at first and then sleeps.

    A miss is a wait that spinning did not end. One is nothing, the learner may be at work; after
    more in a row the next waits sleep without spinning, up to ``MAX_SPINLESS`` of them, until
    spinning succeeds again. So it costs little where other programs hold the cores.
    """

    def __init__(self, context: Any) -> None:
        self._semaphore = context.Semaphore(0)
        self.misses = 0  # in a row
        self._spinless = 0  # waits to come that do not spin

    def release(self) -> None:
        """End a wait: the one under way, or the next."""
        self._semaphore.release()

    def acquire(self, timeout: float | None = None) -> bool:
        """Wait for a release; False after ``timeout`` seconds asleep."""
        acquire = self._semaphore.acquire
        if self._spinless:
            self._spinless -= 1
        else:
            for _ in range(SPINS):
                if acquire(False):
                    self.misses = 0
                    return True
            self.misses += 1
            self._spinless = min(2 ** (self.misses - 1) - 1, MAX_SPINLESS)
        return bool(acquire(True, timeout))


class Channel:
    """Orders to one worker and its answers."""

    def __init__(self, context: Any) -> None:
        self.ordered, self.answered = SpinSemaphore(context), SpinSemaphore(context)
        self.numbers = context.RawArray("q", 4)
