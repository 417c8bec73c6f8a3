"""The learning rate of the critic's Adam over a run.

    p = min(1, steps / critic_schedule_steps)
    constant: rate        linear: rate (1 - p)        cosine: rate (1 + cos(pi p)) / 2

A function of the settings and of the environment steps before an update: a resumed run goes on
where it was without a state of its own.
"""

from __future__ import annotations

import math

from .config import Config


def critic_rate(config: Config, steps: int) -> float:
    """The rate of the update that begins after so many environment steps."""
    share = min(1.0, steps / config.critic_schedule_steps)
    left = {
        "constant": 1.0,
        "linear": 1.0 - share,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * share)),
    }
    return left[config.critic_schedule] * config.critic_learning_rate
