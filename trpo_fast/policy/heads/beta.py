"""Actions in an open interval: the Beta distribution."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Beta as BetaDistribution
from torch.distributions import Distribution, Independent

from ..._base.arguments import check_count, fail
from .base import Head, within


class Beta(Head):
    """Independent Beta distributions of ``dim`` numbers in (0, 1), each with one peak. Actions are
    [N, dim]; the trainer maps them to the bounds of the action space.

    params = net outputs = (z1, z2), D = 2A; alpha = 1 + softplus(z1), beta = 1 + softplus(z2).
    With psi' the trigamma function, the metric in (alpha, beta) is
    diag(psi'(alpha), psi'(beta)) - psi'(alpha + beta), chained with the slopes sigmoid(z). KL and
    metric are differences of nearly equal numbers, so everything is computed in float64.
    """

    kinds = ("beta",)
    action_modes = ("beta",)
    distributions: ClassVar[tuple[str, ...]] = ("Beta", "Independent(Beta)")
    on_cuda = False

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.kind = "beta"
        self.action_dim = check_count("dim", dim)
        self.outputs = self.parameters_per_row = 2 * self.action_dim

    @classmethod
    def of_kind(cls, kind: str, outputs: int, nvec: tuple[int, ...]) -> Beta:
        if outputs % 2:
            raise fail("widths", f"an even number of outputs for {kind}", outputs)
        return cls(outputs // 2)

    @classmethod
    def for_space(cls, space: Any, std: str) -> Beta | None:
        from gymnasium.spaces import Box

        if not isinstance(space, Box):
            return None
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise fail("action_mode", "'clip' or 'scale' for a Box without bounds", "'beta'")
        return cls(math.prod(space.shape))

    @classmethod
    def of_distribution(cls, distribution: Distribution) -> tuple[Head, Tensor] | None:
        base = within(distribution)
        if not isinstance(base, BetaDistribution):
            return None
        both = (base.concentration1, base.concentration0)
        params = torch.cat([c.reshape(c.shape[0], -1) for c in both], dim=-1)
        return PlainBeta(params.shape[-1] // 2), params

    def settings(self) -> dict[str, str]:
        return {"action_mode": "beta"}

    def above_one(self, params: Tensor) -> Tensor:
        """(alpha - 1, beta - 1) [N, D]."""
        return F.softplus(params)

    def slopes(self, params: Tensor) -> Tensor:
        """Derivatives of (alpha, beta) in the distribution parameters [N, D]."""
        return torch.sigmoid(params)

    def distribution_params(
        self, z: Tensor, *, log_std: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        return z

    def distribution(self, params: Tensor) -> Distribution:
        alpha, beta = (1.0 + self.above_one(params)).chunk(2, dim=-1)
        base = BetaDistribution(alpha, beta, validate_args=False)
        return Independent(base, 1, validate_args=False)

    def metric(self, params: Tensor, tangent: Tensor) -> Tensor:
        at, slopes = 1.0 + self.above_one(params.double()), self.slopes(params.double())
        moved = slopes * tangent.double()
        common = torch.polygamma(1, _sum(at)) * _sum(moved)
        product = torch.polygamma(1, at) * moved - torch.cat([common, common], dim=-1)
        return (slopes * product).to(tangent.dtype)

    def metric_root(self, params: Tensor, signs: Tensor) -> Tensor:
        at, slopes = 1.0 + self.above_one(params.double()), self.slopes(params.double())
        common = torch.polygamma(1, _sum(at))
        first, second = (torch.polygamma(1, at) - torch.cat([common, common], dim=-1)).chunk(2, -1)
        one, two = signs.double().chunk(2, dim=-1)
        across = -common / first.sqrt()  # Cholesky of [[first, -common], [-common, second]]
        root = torch.cat([first.sqrt() * one, across * one + (second - across**2).sqrt() * two], -1)
        return (slopes * root).to(signs.dtype)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        at, to = 1.0 + self.above_one(old.double()), 1.0 + self.above_one(new.double())
        total = _log_normaliser(to) - _log_normaliser(at) + ((at - to) * _log_means(at)).sum(-1)
        return total.to(new.dtype)

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        above = self.above_one(params.double())
        total = (above * _logs(actions.double())).sum(-1) - _log_normaliser(1.0 + above)
        return total.to(params.dtype)

    def score(self, params: Tensor, actions: Tensor) -> Tensor:
        at, slopes = 1.0 + self.above_one(params.double()), self.slopes(params.double())
        return (slopes * (_logs(actions.double()) - _log_means(at))).to(params.dtype)

    def entropy(self, params: Tensor) -> Tensor:
        above = self.above_one(params.double())
        at = 1.0 + above
        return (_log_normaliser(at) - (above * _log_means(at)).sum(-1)).to(params.dtype)

    @property
    def expected_actions(self) -> str:
        return "numbers above 0 and below 1"

    def unusable(self, actions: Tensor) -> Tensor:
        return ~((actions > 0) & (actions < 1))

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        at = 1.0 + self.above_one(params.double())
        first, second = torch._standard_gamma(at, generator=generator).chunk(2, dim=-1)
        return self._inside(first / (first + second), params.dtype)

    def mode(self, params: Tensor) -> Tensor:
        above = self.above_one(params).clamp_min(torch.finfo(params.dtype).tiny)
        first, second = above.chunk(2, dim=-1)
        return self._inside(first / (first + second), params.dtype)

    def _inside(self, actions: Tensor, dtype: torch.dtype) -> Tensor:
        """Neither 0 nor 1, whatever is rounded."""
        limits = torch.finfo(dtype)
        return actions.to(dtype).clamp(limits.tiny, 1.0 - 0.5 * limits.eps)


class PlainBeta(Beta):
    """Beta whose parameters are alpha and beta themselves, those below 1 included: what a module's
    torch distribution has.
    """

    def above_one(self, params: Tensor) -> Tensor:
        return params - 1.0

    def slopes(self, params: Tensor) -> Tensor:
        return torch.ones_like(params)


def _sum(pairs: Tensor) -> Tensor:
    """First plus second half of [..., 2A]."""
    first, second = pairs.chunk(2, dim=-1)
    return first + second


def _log_normaliser(at: Tensor) -> Tensor:
    """log B(alpha, beta) [N], summed over action dimensions; ``at`` is (alpha, beta) [N, D]."""
    return torch.lgamma(at).sum(-1) - torch.lgamma(_sum(at)).sum(-1)


def _log_means(at: Tensor) -> Tensor:
    """Means of log a and log(1 - a) [N, D]."""
    both = torch.digamma(_sum(at))
    return torch.digamma(at) - torch.cat([both, both], dim=-1)


def _logs(actions: Tensor) -> Tensor:
    """log a and log(1 - a) [N, D]."""
    return torch.cat([actions.log(), (-actions).log1p()], dim=-1)
