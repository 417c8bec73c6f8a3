"""Critics and the rows they are fitted to."""

from __future__ import annotations

import torch
from torch import Tensor

from trpo_fast import Gaussian, MLPPolicy
from trpo_fast.learner.critic import Critic
from trpo_fast.learner.fits import Targets

# Two fits in float32 from the same weights, many steps later: Adam divides by the square root of
# moments that may be small, and conjugate gradient carries rounding from iteration to iteration.
SAME_LOSS = {"rtol": 1e-4, "atol": 1e-6}
SAME_THETA = {"rtol": 1e-4, "atol": 2e-5}
SAME_MOMENTS = {"rtol": 1e-4, "atol": 1e-6}
SAME_SOLVED_LOSS = {"rtol": 1e-3, "atol": 1e-6}
SAME_SOLVED_VALUES = {"rtol": 1e-3, "atol": 0.05}  # of returns around 50


def assert_same_fit(ours: Critic, theirs: Critic) -> None:
    torch.testing.assert_close(ours.theta, theirs.theta, **SAME_THETA)
    torch.testing.assert_close(ours.moments, theirs.moments, **SAME_MOMENTS)


def loss_no_worse(ours: Tensor, reference: Tensor, truth: Tensor) -> None:
    """The rule for a loss, which one row can make all cancellation: an error in a prediction v
    counts with |v - t|, not with its square, so epsilon is of the loss's root.
    """
    mine, its = float((ours - truth).abs()), float((reference - truth).abs())
    allowed = 2.0 * its + 1e-6 * float(truth.sqrt())
    said = f"loss: error {mine:.2e}, float32 reference {its:.2e}, allowed {allowed:.2e}"
    print(said)
    assert mine <= allowed, said


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
