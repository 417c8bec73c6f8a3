"""pytest-benchmark front end of the fvp suite: the same cases and contenders as
`trpo-fast bench fvp`, without its interleaving. The published figures come from the command.
"""

from __future__ import annotations

SUITE = "fvp"


def test_fvp(run):
    run()
