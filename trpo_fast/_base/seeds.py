"""Every seed that comes from another one: numpy's hash of (seed, what it is for, index).

    derive(s, "copies", r, i) = SeedSequence(s, spawn_key=(number of "copies", r, i)) mod 2^31

So runs of neighbouring seeds, the copies of one run and the uses of one seed share no numbers.
"""

from __future__ import annotations

import numpy as np

# The position is part of every seed: new uses come last, and none goes away.
USES = (
    "weights",  # what the nets start with
    "exploration",  # the agent's generator: actions, minibatches
    "copies",  # episodes of the environment copies, by (restart, copy)
    "batch",  # environments with one generator for all copies, by restart
    "worker",  # the global generators of worker processes, by first copy
    "predict",  # actions that predict samples
    "evaluation",  # episodes of an evaluation, by copy
    "evaluation actions",
    "vine",  # copies that branches run in, by update
    "export",  # observations that an exported policy is checked on
    "trial",  # proposals of a search for settings, by trial
)


def derive(seed: int, use: str, *index: int) -> int:
    """A seed below 2^31, which every library takes."""
    words = np.random.SeedSequence(seed, spawn_key=(USES.index(use), *index)).generate_state(1)
    return int(words[0]) >> 1


def derive_all(seed: int, use: str, count: int, *index: int) -> list[int]:
    """One seed for each of ``count`` copies; those of fewer copies are the first of them."""
    return [derive(seed, use, *index, copy) for copy in range(count)]
