"""The case table: small policies of every head with rows to match."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trpo_fast import (
    Batch,
    Bernoulli,
    Beta,
    Categorical,
    Gaussian,
    MLPPolicy,
    MultiCategorical,
    Penalty,
    SquashedGaussian,
    UpdateInfo,
    kl_penalty_update,
    npg_update,
    pg_update,
    rat_update,
    trpo_update,
)
from trpo_fast.policy.heads import Head
from trpo_fast.policy.net import ACTIVATIONS

HEADS: dict[str, Callable[[], Head]] = {
    "gaussian": lambda: Gaussian(3),
    "gaussian_one": lambda: Gaussian(1),
    "gaussian_state": lambda: Gaussian(2, std="state"),
    "squashed": lambda: SquashedGaussian(3),
    "categorical": lambda: Categorical(4),
    "multicategorical": lambda: MultiCategorical((2, 3, 1)),
    "bernoulli": lambda: Bernoulli(3),
    "beta": lambda: Beta(2),
}
ON_CUDA = [name for name, head in HEADS.items() if head().on_cuda]


def penalised(policy: MLPPolicy, batch: Batch, **options: Any) -> UpdateInfo:
    return kl_penalty_update(policy, batch, Penalty(), **options)


def penalised_adam(policy: MLPPolicy, batch: Batch, **options: Any) -> UpdateInfo:
    return penalised(policy, batch, inner="adam", adam_steps=2, **options)


UPDATES: dict[str, Callable[..., UpdateInfo]] = {
    "trpo_update": trpo_update,
    "npg_update": npg_update,
    "kl_penalty_update": penalised,
    "kl_penalty_adam": penalised_adam,
    "pg_update": pg_update,
    "rat_update": rat_update,
}
HIDDEN: tuple[tuple[int, ...], ...] = ((), (7,), (8, 5), (6, 5, 7, 4))
ROWS = (1, 7, 33, 129)


@dataclass(frozen=True)
class Case:
    """One policy and its rows, made from a seed."""

    head: str = "gaussian"
    hidden: tuple[int, ...] = (8, 5)
    activation: str = "tanh"
    rows: int = 33
    obs_dim: int = 5
    seed: int = 0
    weights: bool = False
    masks: bool = False
    dtype: torch.dtype = torch.float64
    group_size: int | None = None

    def __str__(self) -> str:
        """What differs from the defaults beside head, net and rows: the case's name in a test's."""
        extra = f"-obs{self.obs_dim}" * (self.obs_dim != 5) + "-w" * self.weights
        extra += "-m" * self.masks + f"-groups{self.group_size}" * bool(self.group_size)
        shape = "x".join(map(str, self.hidden)) or "linear"
        return f"{self.head}-{shape}-{self.activation}-N{self.rows}{extra}"

    def policy(self) -> MLPPolicy:
        torch.manual_seed(self.seed)
        head = HEADS[self.head]()
        policy = MLPPolicy(self.obs_dim, head, self.hidden, self.activation, output_gain=0.7)
        with torch.no_grad():
            for p in policy.parameters():
                p.add_(0.1 * torch.randn(p.shape))
        return policy.to(self.dtype)

    def batch(self, policy: MLPPolicy) -> Batch:
        generator = torch.Generator().manual_seed(self.seed + 1)
        obs = torch.randn(self.rows, self.obs_dim, generator=generator).to(self.dtype)
        mask = self._mask(policy, generator) if self.masks else None
        with torch.no_grad():
            params = policy.distribution_params(obs, mask)
            actions = policy.head.sample(params, generator)
            log_probs = policy.head.log_prob(params, actions)
        advantages = torch.randn(self.rows, generator=generator).to(self.dtype)
        weights = self._weights(generator) if self.weights else None
        return Batch(obs, actions, advantages, log_probs, weights, mask, self.group_size)

    def _weights(self, generator: torch.Generator) -> Tensor:
        weights = torch.rand(self.rows, generator=generator) + 0.1
        weights[1::5] = 0.0
        return weights.to(self.dtype)

    def _mask(self, policy: MLPPolicy, generator: torch.Generator) -> Tensor:
        mask = torch.rand(self.rows, policy.head.outputs, generator=generator) < 0.6
        first = 0
        for n in policy.head.nvec:
            mask[:, first] |= ~mask[:, first : first + n].any(-1)
            first += n
        return mask


def every_shape(heads: Iterable[str] = HEADS) -> list[Case]:
    """Heads x activations x depths, with rows, weights and masks dealt out over them."""
    cases = []
    for i, head in enumerate(heads):
        for j, activation in enumerate(ACTIVATIONS):
            for k, hidden in enumerate(HIDDEN):
                rows = ROWS[(i + j + k) % len(ROWS)]
                masks = "categorical" in head and (j + k) % 2 == 0
                weights = rows > 1 and (i + j + k) % 3 == 0
                cases.append(
                    Case(head, hidden, activation, rows, seed=i + j, weights=weights, masks=masks)
                )
    return cases


def weighted(head: str) -> Case:
    """The weighted case of a head, masked where the head has choices."""
    return Case(head, weights=True, masks="categorical" in head)


def few(heads: Iterable[str] = HEADS) -> list[Case]:
    """One case a head."""
    return [weighted(head) for head in heads]


def thinned(cases: list[Case], step: int, begin: int = 0) -> list[Case]:
    """Every so many of a long list, where all would take too long."""
    return cases[begin::step]


def poison(batch: Batch) -> Batch:
    """NaN, or an impossible choice, in every zero-weight row, where anything may stand."""
    assert batch.weights is not None
    dead = batch.weights == 0
    filled = {}
    for name in ("obs", "actions", "advantages", "log_probs", "old_params"):
        if getattr(batch, name) is None:
            continue
        value = getattr(batch, name).clone()
        value[dead] = float("nan") if value.is_floating_point() else -5
        filled[name] = value
    return replace(batch, **filled)


def random_vector(policy: MLPPolicy, seed: int = 3, columns: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = policy.spec.size
    shape = (size,) if columns is None else (size, columns)
    return torch.randn(shape, generator=generator).to(next(policy.parameters()).dtype)
