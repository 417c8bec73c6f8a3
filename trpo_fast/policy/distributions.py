"""What ``policy(obs)`` returns where torch.distributions has no such class, with the KL of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    TransformedDistribution,
    constraints,
    kl_divergence,
    register_kl,
)
from torch.distributions.transforms import TanhTransform


class SquashedNormal(TransformedDistribution):
    """tanh of a diagonal normal; the KL between two of them is the KL of their bases."""

    def __init__(self, base: Independent) -> None:
        super().__init__(base, [TanhTransform(cache_size=1)], validate_args=False)


@register_kl(SquashedNormal, SquashedNormal)
def _kl_squashed(p: SquashedNormal, q: SquashedNormal) -> Tensor:
    return kl_divergence(p.base_dist, q.base_dist)


class MultiCategoricalDistribution(Distribution):
    """Independent categoricals, one per factor of ``nvec``, over concatenated ``logits [N,
    sum(nvec)]``.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, logits: Tensor, nvec: Sequence[int]) -> None:
        self.nvec = tuple(nvec)
        self.logits = logits
        self.factors = [
            Categorical(logits=part, validate_args=False)
            for part in logits.split(list(nvec), dim=-1)
        ]
        super().__init__(logits.shape[:-1], torch.Size([len(nvec)]), validate_args=False)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        return torch.stack([factor.sample(shape) for factor in self.factors], dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        parts = [f.log_prob(c) for f, c in zip(self.factors, value.unbind(-1), strict=True)]
        return torch.stack(parts).sum(0)

    def entropy(self) -> Tensor:
        return torch.stack([factor.entropy() for factor in self.factors]).sum(0)

    @property
    def mode(self) -> Tensor:
        return torch.stack([factor.mode for factor in self.factors], dim=-1)


@register_kl(MultiCategoricalDistribution, MultiCategoricalDistribution)
def _kl_multicategorical(
    p: MultiCategoricalDistribution, q: MultiCategoricalDistribution
) -> Tensor:
    parts = [kl_divergence(a, b) for a, b in zip(p.factors, q.factors, strict=True)]
    return torch.stack(parts).sum(0)


def distribution_in(result: Any) -> Any:
    """What a module returned, or the first of a tuple, such as (distribution, value)."""
    return result[0] if isinstance(result, tuple) and result else result


def from_validation(error: ValueError) -> bool:
    """Whether a distribution that looks at its parameters raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = trace.tb_frame.f_globals.get("__name__") if trace is not None else None
    return where == Distribution.__module__


def without_validation(distribution: Distribution) -> Distribution:
    """The distribution, which from now on, with those it is made of, takes any action."""
    distribution._validate_args = False
    for inner in vars(distribution).values():
        if isinstance(inner, Distribution):
            without_validation(inner)
    return distribution
