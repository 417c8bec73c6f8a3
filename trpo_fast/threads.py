"""Small torch operators on one thread.

OpenMP's barriers cost more than such an operator does, and a hundred times more where cores are
busy, as they are beside environment workers (4096 CartPoles, two threads on two shared cores: 8 ms
a step against 0.18 ms on one). The native kernels have a pool of their own and read the number of
threads that is in force outside of this.
"""

from __future__ import annotations

from types import TracebackType

import torch


class OneThread:
    """``with OneThread():`` torch runs on the calling thread; the setting before comes back
    afterwards.
    """

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        if self.before != 1:
            torch.set_num_threads(1)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.before != 1:
            torch.set_num_threads(self.before)
