"""pytest-benchmark front end of the act suite: the same cases and contenders as
`trpo-fast bench act`, without its interleaving. The published figures come from the command.
"""

from __future__ import annotations

SUITE = "act"


def test_act(run):
    run()
