"""pytest-benchmark front end of the critic suite: the same cases and contenders as
`trpo-fast bench critic`, without its interleaving. The published figures come from the command.
"""

from __future__ import annotations

SUITE = "critic"


def test_critic(run):
    run()
