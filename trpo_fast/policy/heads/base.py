"""Action heads: the closed forms of every action distribution, in the order the stages use them.

A head turns the last layer's outputs ``z [N, Z]`` into distribution parameters ``params [N, D]``
and knows, for one row of them, the Fisher metric, the KL divergence, the log-probability and its
gradient, and the entropy. ``csrc/shared/heads.h`` holds the same formulas for the kernels. Leading
dimensions before ``[N, D]`` (several right-hand sides) broadcast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli as BernoulliDistribution,
)
from torch.distributions import (
    Categorical as CategoricalDistribution,
)
from torch.distributions import Distribution, Independent, Normal

from .._base.arguments import check_choice, check_count, check_counts, check_number
from .._base.choices import Std
from .distributions import MultiCategoricalDistribution, SquashedNormal

# The order of enum Head in csrc/shared/params.h.
KINDS = ("gaussian", "gaussian_state", "categorical", "multicategorical", "bernoulli")

# A masked logit: exp() of it is exactly 0 in float32 and float64, yet 0 * it is 0, not NaN.
MASKED = -1e30

_LOG_2PI = math.log(2.0 * math.pi)


class Head(nn.Module):
    """What every head provides; ``outputs`` is Z, ``parameters_per_row`` is D, ``action_dim`` is
    A.
    """

    kind: str
    outputs: int
    action_dim: int
    parameters_per_row: int
    nvec: tuple[int, ...] = ()
    log_std: nn.Parameter | None

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("log_std", None)

    @property
    def maskable(self) -> bool:
        """Whether actions can be forbidden by a mask."""
        return bool(self.nvec)

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one row's action: () for Categorical, [A] or [factors] otherwise."""
        return (self.action_dim,)

    def mean_scale(self) -> float:
        """The factor that turns a sum over action dimensions into the mean sb3 and omnisafe
        report.
        """
        return 1.0 / self.action_dim

    def distribution_params(
        self, z: Tensor, *, log_std: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Distribution parameters [N, D] from net outputs z [N, Z]."""
        raise NotImplementedError

    def distribution(self, params: Tensor) -> Distribution:
        """The torch distribution of rows with distribution parameters [N, D]."""
        raise NotImplementedError

    def metric(self, params: Tensor, tangent: Tensor) -> Tensor:
        """Fisher information of one row's distribution, times a tangent [..., N, D]."""
        raise NotImplementedError

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """KL(old || new) [N], summed over action dimensions."""
        raise NotImplementedError

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        """log pi(a | s) [N] of actions [N, *action_shape], summed over action dimensions."""
        raise NotImplementedError

    def score(self, params: Tensor, actions: Tensor) -> Tensor:
        """Gradient of log_prob in the distribution parameters [N, D]."""
        raise NotImplementedError

    def entropy(self, params: Tensor) -> Tensor:
        """Entropy [N], summed over action dimensions."""
        raise NotImplementedError

    @property
    def expected_actions(self) -> str:
        """What every action has to be, in words."""
        return "finite values"

    def unusable(self, actions: Tensor) -> Tensor:
        """Where in ``actions`` no update can use what stands there, bool of the same shape."""
        return ~torch.isfinite(actions)

    def without_choice(self, mask: Tensor) -> Tensor:
        """Rows [N] in which a mask [N, Z] leaves some factor nothing to choose."""
        raise NotImplementedError

    def forbidden(self, actions: Tensor, mask: Tensor) -> Tensor:
        """Choices [N, factors] that a mask [N, Z] does not allow."""
        raise NotImplementedError

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One action a row [N, *action_shape]; for a squashed Gaussian the one before tanh."""
        raise NotImplementedError

    def mode(self, params: Tensor) -> Tensor:
        """The most likely action of each row [N, *action_shape], in the form of ``sample``."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{self.nvec if self.nvec else self.action_dim}"


class Gaussian(Head):
    """Diagonal Gaussian; ``std="free"`` is one parameter per action, ``std="state"`` an output of
    the net.

    params = (mean, log_std), D = 2A; metric diag(1 / std^2, 2).
    """

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

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean, log_std = params.chunk(2, dim=-1)
        noise = torch.empty_like(mean).normal_(generator=generator)
        return mean + log_std.exp() * noise

    def mode(self, params: Tensor) -> Tensor:
        return params[..., : self.action_dim]


class SquashedGaussian(Gaussian):
    """tanh of a Gaussian. Stored actions are pre-tanh and log-probs are the base's: the Jacobian
    cancels.
    """

    def distribution(self, params: Tensor) -> Distribution:
        base = super().distribution(params)
        assert isinstance(base, Independent)
        return SquashedNormal(base)


class MultiCategorical(Head):
    """Independent categoricals over concatenated logits; metric diag(p) - p p' for each factor."""

    def __init__(self, nvec: Sequence[int]) -> None:
        super().__init__()
        self.kind = "multicategorical"
        self.nvec = check_counts("nvec", nvec, least_length=1)
        self.action_dim = len(self.nvec)
        self.outputs = self.parameters_per_row = sum(self.nvec)

    def mean_scale(self) -> float:
        return 1.0

    def _parts(self, params: Tensor) -> tuple[Tensor, ...]:
        return params.split(list(self.nvec), dim=-1)

    def _log_softmax(self, params: Tensor) -> Tensor:
        return torch.cat([F.log_softmax(part, dim=-1) for part in self._parts(params)], dim=-1)

    def _chosen(self, actions: Tensor) -> Tensor:
        """Columns of the chosen logits [N, factors]; a choice out of range counts as the nearest,
        so that it reads no other memory before ``unusable`` is looked at.
        """
        limits = torch.tensor(self.nvec, dtype=torch.int64, device=actions.device)
        choices = actions.reshape(-1, len(self.nvec)).long().clamp_min(0)
        return torch.minimum(choices, limits - 1) + limits.cumsum(0) - limits

    @property
    def expected_actions(self) -> str:
        return f"choices from 0 to below {self.nvec}"

    def unusable(self, actions: Tensor) -> Tensor:
        limits = torch.tensor(self.nvec, dtype=torch.int64, device=actions.device)
        choices = actions.reshape(-1, len(self.nvec))
        return ((choices < 0) | (choices >= limits)).view_as(actions)

    def without_choice(self, mask: Tensor) -> Tensor:
        return ~torch.stack([part.any(-1) for part in self._parts(mask)]).all(0)

    def forbidden(self, actions: Tensor, mask: Tensor) -> Tensor:
        return ~mask.gather(-1, self._chosen(actions))

    def distribution_params(
        self, z: Tensor, *, log_std: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        return z if mask is None else torch.where(mask, z, MASKED)

    def distribution(self, params: Tensor) -> Distribution:
        return MultiCategoricalDistribution(params, self.nvec)

    def metric(self, params: Tensor, tangent: Tensor) -> Tensor:
        probs = self._log_softmax(params).exp()
        rows = [p * t for p, t in zip(self._parts(probs), self._parts(tangent), strict=True)]
        return torch.cat(
            [
                pt - p * pt.sum(-1, keepdim=True)
                for p, pt in zip(self._parts(probs), rows, strict=True)
            ],
            dim=-1,
        )

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        log_old, log_new = self._log_softmax(old), self._log_softmax(new)
        return (log_old.exp() * (log_old - log_new)).sum(-1)

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        return self._log_softmax(params).gather(-1, self._chosen(actions)).sum(-1)

    def score(self, params: Tensor, actions: Tensor) -> Tensor:
        probs = self._log_softmax(params).exp()
        chosen = torch.zeros_like(probs).scatter_(-1, self._chosen(actions), 1.0)
        return chosen - probs

    def entropy(self, params: Tensor) -> Tensor:
        log_probs = self._log_softmax(params)
        return -(log_probs.exp() * log_probs).sum(-1)

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        uniform = torch.rand(
            params.shape, dtype=params.dtype, device=params.device, generator=generator
        )
        gumbel = params - (-uniform.clamp_min(torch.finfo(params.dtype).tiny).log()).log()
        return self.mode(gumbel)

    def mode(self, params: Tensor) -> Tensor:
        return torch.stack([part.argmax(-1) for part in self._parts(params)], dim=-1)


class Categorical(MultiCategorical):
    """One choice among n; actions are [N] integers."""

    def __init__(self, n: int) -> None:
        super().__init__((check_count("n", n),))
        self.kind = "categorical"

    @property
    def action_shape(self) -> tuple[int, ...]:
        return ()

    def distribution(self, params: Tensor) -> Distribution:
        return CategoricalDistribution(logits=params, validate_args=False)

    def mode(self, params: Tensor) -> Tensor:
        return params.argmax(-1)


class Bernoulli(Head):
    """n independent yes/no choices from logits; metric diag(p (1 - p)). Actions are [N, n] zeros
    and ones.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.kind = "bernoulli"
        self.action_dim = self.outputs = self.parameters_per_row = check_count("n", n)

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

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        uniform = torch.rand(
            params.shape, dtype=params.dtype, device=params.device, generator=generator
        )
        return (uniform < torch.sigmoid(params)).to(params.dtype)

    def mode(self, params: Tensor) -> Tensor:
        return (params > 0).to(params.dtype)
