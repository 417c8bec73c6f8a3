"""Small torch operators on one thread.

OpenMP's barriers cost more than such an operator does, and a hundred times more where cores are
busy, as they are beside environment workers (4096 CartPoles, two threads on two shared cores: 8 ms
a step against 0.18 ms on one). Worse, OpenMP's threads go on spinning after it on cores that the
native kernels' own pool is about to use: what alternates the two runs its operators in here
(Gauss-Newton critic, 25 000 rows, two threads on two cores: 236 ms of CPU time against 97 ms). The
kernels get the number of threads that is in force outside, ``kernel_threads``.
"""

from __future__ import annotations

import threading
from types import TracebackType

import torch

_outside = threading.local()  # ``count``: torch's threads outside of the outermost OneThread


def kernel_threads() -> int:
    """How many threads a native call may use: as many as torch where it is not held to one."""
    count: int | None = getattr(_outside, "count", None)
    return torch.get_num_threads() if count is None else count


class OneThread:
    """``with OneThread():`` torch runs on the calling thread; the setting before comes back
    afterwards.
    """

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        self.outermost = getattr(_outside, "count", None) is None
        if self.outermost:
            _outside.count = self.before
        if self.before != 1:
            torch.set_num_threads(1)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.outermost:
            _outside.count = None
        if self.before != 1:
            torch.set_num_threads(self.before)
