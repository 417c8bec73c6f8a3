"""Critics and the rows they are fitted to."""

from __future__ import annotations

import torch
from torch import Tensor

from trpo_fast import Gaussian, MLPPolicy
from trpo_fast.learner.fits import Targets


def problem(rows: int = 600, obs_dim: int = 3) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    obs = torch.randn(rows, obs_dim, generator=draw)
    returns = 50.0 + 20.0 * torch.sin(obs[:, 0]) * obs[:, 1] + obs[:, 2]
    return obs, returns


def nets(
    hidden: tuple[int, ...], activation: str, rows: int, weighted: bool = False
) -> tuple[MLPPolicy, Targets]:
    torch.manual_seed(5)
    net = MLPPolicy(11, Gaussian(1), hidden, activation, output_gain=1.0)
    with torch.no_grad():
        for p in net.net.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    weights = torch.rand(rows) + 0.1 if weighted else None
    return net, Targets(torch.randn(rows, 11), torch.randn(rows), weights)
