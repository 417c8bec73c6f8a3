"""A module of one's own with every kind of distribution, for tests of what is no MLPPolicy."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributions import Bernoulli, Beta, Categorical, Independent, Normal

from trpo_fast import SquashedGaussian
from trpo_fast.policy.distributions import MultiCategoricalDistribution


class Custom(nn.Module):
    """Shared trunk, layer norm, a scale that depends on the state."""

    def __init__(self, distribution):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.SiLU())
        self.out = nn.Linear(6, 4)
        self.distribution = distribution

    def forward(self, obs, mask=None):
        return self.distribution(self.out(self.trunk(obs)))


DISTRIBUTIONS = {
    "normal": lambda z: Normal(z[:, :2], z[:, 2:].exp()),
    "independent": lambda z: Independent(Normal(z[:, :2], z[:, 2:].exp()), 1),
    "squashed": lambda z: SquashedGaussian(2, "state").distribution(z),
    "categorical": lambda z: Categorical(logits=z),
    "multicategorical": lambda z: MultiCategoricalDistribution(z, (1, 3)),
    "bernoulli": lambda z: Independent(Bernoulli(logits=z), 1),
    "beta": lambda z: Beta(z[:, :2].exp(), z[:, 2:].exp()),
    "independent beta": lambda z: Independent(Beta(z[:, :2].exp(), z[:, 2:].exp()), 1),
}


def setup(name):
    torch.manual_seed(0)
    policy = Custom(DISTRIBUTIONS[name]).double()
    return policy, torch.randn(21, 4, dtype=torch.float64)
