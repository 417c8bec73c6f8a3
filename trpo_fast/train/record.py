"""What an update reports beside its own numbers: where the time went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .agent import Agent

Record = dict[str, Any]  # what one update reports; the names are the columns of the logs


def progress(agent: Agent) -> Record:
    """How far an agent is, and the means of its last episodes."""
    returns, lengths = agent.recent_returns, agent.recent_lengths
    return {
        "update": agent.updates,
        "steps": agent.steps,
        "episodes": agent.episodes,
        "return": float(np.mean(returns)) if returns else np.nan,
        "length": float(np.mean(lengths)) if lengths else np.nan,
    }


@dataclass(frozen=True)
class Times:
    """Moments of an update on one clock, in seconds, and what the environments took of it."""

    begin: float
    collected: float
    updated: float
    end: float
    env_seconds: float

    def as_dict(self, steps: int) -> Record:
        """Seconds of every part, and the rate of so many environment steps."""
        seconds = self.end - self.begin
        return {
            "seconds": seconds,
            "steps_per_second": steps / seconds,
            "env_seconds": self.env_seconds,
            "act_seconds": self.collected - self.begin - self.env_seconds,
            "update_seconds": self.updated - self.collected,
            "critic_seconds": self.end - self.updated,
            "learner_share": 1.0 - self.env_seconds / seconds,
        }
