"""One choice: a single factor of the multicategorical head."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributions import Categorical as CategoricalDistribution
from torch.distributions import Distribution

from ..._base.arguments import check_count, fail
from .base import Head, within
from .multicategorical import MASKED, MultiCategorical


class Categorical(MultiCategorical):
    """One choice among n; actions are [N] integers."""

    kinds = ("categorical",)
    distributions = ("Categorical",)

    def __init__(self, n: int) -> None:
        super().__init__((check_count("n", n),))
        self.kind = "categorical"

    def extra_repr(self) -> str:
        return str(self.outputs)

    @classmethod
    def of_kind(cls, kind: str, outputs: int, nvec: tuple[int, ...]) -> Categorical:
        if nvec != (outputs,):
            raise fail("nvec", f"numbers of choices that add up to {outputs}", list(nvec))
        return cls(outputs)

    @classmethod
    def for_space(cls, space: Any, std: str) -> Categorical | None:
        from gymnasium.spaces import Discrete

        return cls(int(space.n)) if isinstance(space, Discrete) else None

    @classmethod
    def of_distribution(cls, distribution: Distribution) -> tuple[Head, Tensor] | None:
        base = within(distribution)
        if not isinstance(base, CategoricalDistribution) or base.logits.ndim != 2:
            return None
        return cls(base.logits.shape[-1]), base.logits.clamp_min(MASKED)

    @property
    def alternatives(self) -> int:
        return self.outputs

    @property
    def action_shape(self) -> tuple[int, ...]:
        return ()

    def distribution(self, params: Tensor) -> Distribution:
        return CategoricalDistribution(logits=params, validate_args=False)

    def mode(self, params: Tensor) -> Tensor:
        return params.argmax(-1)
