"""Modules of the kinds that people train beside plain nets, and rows for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from cases import Case
from module_cases import DISTRIBUTIONS, Custom
from torch import nn
from torch.distributions import Categorical, Independent, Normal

from trpo_fast import Batch


class Pixels(nn.Module):
    """Convolutions over images [N, 36], a choice of three."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()
        self.net = nn.Sequential(*convolutions, nn.Linear(12, 3))

    def forward(self, obs):
        return Categorical(logits=self.net(obs.view(-1, 1, 6, 6)))


class Cell(nn.Module):
    """A recurrent cell in plain operators over sequences [N, T, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.again, self.out = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)
        self.log_std = nn.Parameter(torch.zeros(2))

    def forward(self, obs):
        state = obs.new_zeros(len(obs), 5)
        for t in range(obs.shape[1]):
            state = torch.tanh(self.into(obs[:, t]) + self.again(state))
        mean = self.out(state)
        return Independent(Normal(mean, self.log_std.exp().expand_as(mean)), 1)


@dataclass(frozen=True)
class Kind:
    """Modules of one kind, and their observations' shape."""

    make: Any
    shape: tuple[int, ...] = (4,)

    def policy(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return self.make().double()

    def batch(self, policy: nn.Module, seed: int, rows: int = 21) -> Batch:
        torch.manual_seed(100 + seed)
        obs = torch.randn(rows, *self.shape, dtype=torch.float64)
        with torch.no_grad():
            found = policy(obs)
            actions = getattr(found, "base_dist", found).sample()  # before a tanh
            advantages = torch.randn(rows, dtype=torch.float64)
        return Batch(obs, actions, advantages)


class _Plain:
    """An MLPPolicy of the table of cases as a kind."""

    def __init__(self, head: str) -> None:
        self.case = Case(head, (133,), weights=True, masks="categorical" in head)

    def policy(self, seed: int = 0) -> nn.Module:
        return self.case.policy()

    def batch(self, policy: nn.Module, seed: int) -> Batch:
        made = Case(**(vars(self.case) | {"seed": 100 + seed}))
        return made.batch(policy)


MODULES = {
    "pixels": Kind(Pixels, (36,)),
    "cell": Kind(Cell, (3, 4)),
    **{name: Kind(lambda d=d: Custom(d)) for name, d in DISTRIBUTIONS.items()},
}


def wide(head: str) -> Any:
    """A net that is wider than the kernels serve."""
    return _Plain(head)
