"""``Plan``: what an evaluation is asked for; ``Evaluation``: what it finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths of whole episodes."""

    returns: list[float]
    lengths: list[int]

    @property
    def mean(self) -> float:
        """Of the returns."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Deviation of the returns."""
        return float(np.std(self.returns))

    def __str__(self) -> str:
        count, length = len(self.returns), float(np.mean(self.lengths))
        return (
            f"return {self.mean:.1f} +- {self.std:.1f} over {count} episodes of {length:.0f} steps"
        )


@dataclass(frozen=True)
class EvaluationRequest:
    """What an evaluation is asked for."""

    episodes: int
    deterministic: bool
    seed: int
    max_steps: int

    def share(self, copies: int) -> list[int]:
        """A fixed number of episodes for every copy: the first to end would be the short ones."""
        return [self.episodes // copies + (i < self.episodes % copies) for i in range(copies)]
