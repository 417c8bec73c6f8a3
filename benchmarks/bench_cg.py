"""pytest-benchmark front end of the cg suite: the same cases and contenders as
`trpo-fast bench cg`, without its interleaving. The published figures come from the command.
"""

from __future__ import annotations

SUITE = "cg"


def test_cg(run):
    run()
