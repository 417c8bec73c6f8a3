"""pytest-benchmark front end of the update suite: the same cases and contenders as
`trpo-fast bench update`, without its interleaving. The published figures come from the command.
"""

from __future__ import annotations

SUITE = "update"


def test_update(run):
    run()
