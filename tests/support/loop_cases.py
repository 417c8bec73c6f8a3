"""Modules, losses and rows for ``NaturalGradient``."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.distributions import Categorical


class Plain(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, width))

    def forward(self, obs):
        return Categorical(logits=self.layers(obs))


def losses(found, actions, advantages):
    old = found.log_prob(actions).detach()

    def loss(distribution):
        return -((distribution.log_prob(actions) - old).exp() * advantages).mean()

    return loss


def problem(module, *inputs, dtype=torch.float64):
    """A copy of the module, its inputs, actions, advantages and the loss of these."""
    torch.manual_seed(1)
    module = copy.deepcopy(module).to(dtype)
    with torch.no_grad():
        found = module(*inputs)
    actions = found.sample()
    advantages = torch.randn(found.batch_shape, dtype=dtype)
    return module, actions, advantages, losses(found, actions, advantages)
