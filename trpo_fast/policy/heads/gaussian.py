"""Gaussian actions, and their tanh."""

from __future__ import annotations

import math
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from ..._base.arguments import check_choice, check_count, check_number, fail
from ..._base.choices import Std
from ..distributions import SquashedNormal
from .base import Head, within

_LOG_2PI = math.log(2.0 * math.pi)


class Gaussian(Head):
    """Diagonal Gaussian; ``std="free"`` is one parameter per action, ``std="state"`` an output of
    the net.

    params = (mean, log_std), D = 2A; metric diag(1 / std^2, 2).
    """

    kinds: ClassVar[tuple[str, ...]] = ("gaussian", "gaussian_state")
    action_modes: ClassVar[tuple[str, ...]] = ("clip", "scale")
    distributions: ClassVar[tuple[str, ...]] = ("Normal", "Independent(Normal)")
    noise = "normal"

    def __init__(self, dim: int, std: str = "free", initial_log_std: float = 0.0) -> None:
        super().__init__()
        dim = check_count("dim", dim)
        self.std = check_choice("std", std, get_args(Std))
        initial = check_number("initial_log_std", initial_log_std)
        self.kind = "gaussian" if std == "free" else "gaussian_state"
        self.action_dim = dim
        self.outputs = dim if std == "free" else 2 * dim
        self.parameters_per_row = 2 * dim
        if std == "free":
            self.log_std = nn.Parameter(torch.full((dim,), initial))

    @classmethod
    def of_kind(cls, kind: str, outputs: int, nvec: tuple[int, ...]) -> Gaussian:
        if kind == "gaussian":
            return cls(outputs)
        if outputs % 2:
            raise fail("widths", f"an even number of outputs for {kind}", outputs)
        return cls(outputs // 2, "state")

    @classmethod
    def free_of(cls, kind: str, outputs: int) -> int:
        return outputs if kind == "gaussian" else 0

    @classmethod
    def for_space(cls, space: Any, std: str) -> Gaussian | None:
        from gymnasium.spaces import Box

        return cls(math.prod(space.shape), std) if isinstance(space, Box) else None

    @classmethod
    def of_distribution(cls, distribution: Distribution) -> tuple[Head, Tensor] | None:
        base = within(distribution)
        if not isinstance(base, Normal):
            return None
        mean = base.loc.reshape(base.loc.shape[0], -1)
        log_std = base.scale.log().reshape(mean.shape)
        return cls(mean.shape[-1], "state"), torch.cat([mean, log_std], dim=-1)

    def settings(self) -> dict[str, str]:
        return {"std": self.std}

    def distribution_params(
        self, z: Tensor, *, log_std: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        if self.std == "state":
            return z
        free = self.log_std if log_std is None else log_std
        assert free is not None
        return torch.cat([z, free.expand_as(z)], dim=-1)

    def distribution(self, params: Tensor) -> Distribution:
        mean, log_std = params.chunk(2, dim=-1)
        return Independent(Normal(mean, log_std.exp(), validate_args=False), 1, validate_args=False)

    def metric(self, params: Tensor, tangent: Tensor) -> Tensor:
        log_std = params[..., self.action_dim :]
        scale = torch.cat([(-2.0 * log_std).exp(), torch.full_like(log_std, 2.0)], dim=-1)
        return scale * tangent

    def metric_root(self, params: Tensor, signs: Tensor) -> Tensor:
        log_std = params[..., self.action_dim :]
        root = torch.cat([(-log_std).exp(), torch.full_like(log_std, math.sqrt(2.0))], dim=-1)
        return root * signs

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        mean, log_std = old.chunk(2, dim=-1)
        new_mean, new_log_std = new.chunk(2, dim=-1)
        variance_term = torch.expm1(2.0 * (log_std - new_log_std))
        mean_term = ((mean - new_mean) * (-new_log_std).exp()) ** 2
        return (new_log_std - log_std + 0.5 * (variance_term + mean_term)).sum(-1)

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        mean, log_std = params.chunk(2, dim=-1)
        standard = (actions - mean) * (-log_std).exp()
        return (-0.5 * standard**2 - log_std - 0.5 * _LOG_2PI).sum(-1)

    def score(self, params: Tensor, actions: Tensor) -> Tensor:
        mean, log_std = params.chunk(2, dim=-1)
        inverse_std = (-log_std).exp()
        standard = (actions - mean) * inverse_std
        return torch.cat([standard * inverse_std, standard**2 - 1.0], dim=-1)

    def entropy(self, params: Tensor) -> Tensor:
        return (params[..., self.action_dim :] + 0.5 * (_LOG_2PI + 1.0)).sum(-1)

    def choose(self, params: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = params.chunk(2, dim=-1)
        return mean + log_std.exp() * noise

    def mode(self, params: Tensor) -> Tensor:
        return params[..., : self.action_dim]


class SquashedGaussian(Gaussian):
    """tanh of a diagonal Gaussian, which changes neither ratios nor KL: the actions [N, dim] and
    log-probabilities of a ``Batch`` are those before tanh, of ``policy(obs).base_dist``.
    """

    kinds = ()  # the kernels see the Gaussian before tanh
    action_modes = ("squash",)
    distributions = ("SquashedNormal",)

    @classmethod
    def of_distribution(cls, distribution: Distribution) -> tuple[Head, Tensor] | None:
        if not isinstance(distribution, SquashedNormal):
            return None
        return super().of_distribution(distribution.base_dist)

    def settings(self) -> dict[str, str]:
        return super().settings() | {"action_mode": "squash"}

    def distribution(self, params: Tensor) -> Distribution:
        base = super().distribution(params)
        assert isinstance(base, Independent)
        return SquashedNormal(base)
