"""The learning rate of the critic's Adam over a run.

    p = min(1, steps / critic_schedule_steps)
    constant: rate        linear: rate (1 - p)        cosine: rate (1 + cos(pi p)) / 2

A function of the settings and of the environment steps before an update: a resumed run goes on
where it was without a state of its own.
"""

from __future__ import annotations

import math

from ..learner.critic import Critic
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


def set_critic_rate(critic: Critic, config: Config, steps: int) -> None:
    """Give the critic the rate of the update that begins after so many steps; one that stays is
    left as it is, which may be somebody else's.
    """
    if config.critic_schedule != "constant":
        critic.learning_rate = critic_rate(config, steps)
