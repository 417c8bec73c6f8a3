"""Independent yes/no choices."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Distribution, Independent

from ..._base.arguments import check_count
from .base import Head, within


class Bernoulli(Head):
    """n independent yes/no choices from logits; metric diag(p (1 - p)). Actions are [N, n] zeros
    and ones.
    """

    kinds = ("bernoulli",)
    distributions = ("Bernoulli",)
    noise = "uniform"
    integer_actions = True

    def __init__(self, n: int) -> None:
        super().__init__()
        self.kind = "bernoulli"
        self.action_dim = self.outputs = self.parameters_per_row = check_count("n", n)

    @classmethod
    def of_kind(cls, kind: str, outputs: int, nvec: tuple[int, ...]) -> Bernoulli:
        return cls(outputs)

    @classmethod
    def for_space(cls, space: Any, std: str) -> Bernoulli | None:
        from gymnasium.spaces import MultiBinary

        return cls(math.prod(space.shape)) if isinstance(space, MultiBinary) else None

    @classmethod
    def of_distribution(cls, distribution: Distribution) -> tuple[Head, Tensor] | None:
        base = within(distribution)
        if not isinstance(base, BernoulliDistribution):
            return None
        logits = base.logits.reshape(base.logits.shape[0], -1)
        return cls(logits.shape[-1]), logits

    @property
    def discrete(self) -> bool:
        return True

    def uniform_params(self, params: Tensor) -> Tensor:
        return torch.zeros_like(params)

    def distribution_params(
        self, z: Tensor, *, log_std: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        return z

    def distribution(self, params: Tensor) -> Distribution:
        return Independent(
            BernoulliDistribution(logits=params, validate_args=False), 1, validate_args=False
        )

    def metric(self, params: Tensor, tangent: Tensor) -> Tensor:
        return torch.sigmoid(params) * torch.sigmoid(-params) * tangent

    def metric_root(self, params: Tensor, signs: Tensor) -> Tensor:
        return (torch.sigmoid(params) * torch.sigmoid(-params)).sqrt() * signs

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        yes = torch.sigmoid(old) * (F.logsigmoid(old) - F.logsigmoid(new))
        no = torch.sigmoid(-old) * (F.logsigmoid(-old) - F.logsigmoid(-new))
        return (yes + no).sum(-1)

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        return torch.where(actions > 0.5, F.logsigmoid(params), F.logsigmoid(-params)).sum(-1)

    def score(self, params: Tensor, actions: Tensor) -> Tensor:
        return torch.where(actions > 0.5, torch.sigmoid(-params), -torch.sigmoid(params))

    @property
    def expected_actions(self) -> str:
        return "zeros and ones"

    def unusable(self, actions: Tensor) -> Tensor:
        return ~((actions == 0) | (actions == 1))

    def entropy(self, params: Tensor) -> Tensor:
        return (F.softplus(params) - torch.sigmoid(params) * params).sum(-1)

    def choose(self, params: Tensor, noise: Tensor) -> Tensor:
        return (noise < torch.sigmoid(params)).to(params.dtype)

    def mode(self, params: Tensor) -> Tensor:
        return (params > 0).to(params.dtype)
