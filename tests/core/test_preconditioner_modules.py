"""precondition: the factors of any module's layers, and what stands in where a tensor has none."""

from __future__ import annotations

import pytest
import torch
from cases import Case, random_vector
from exactness import relative_error
from preconditioner_cases import operator
from torch import nn

from trpo_fast import FisherOperator, flat_params


class Wrapped(nn.Module):
    """An MLPPolicy that is no longer one to the package."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def forward(self, obs, mask=None):
        return self.policy(obs, mask)


@pytest.mark.parametrize("head", ["gaussian_state", "categorical", "bernoulli"])
def test_a_modules_linear_layers_have_the_factors_of_a_policys(head):
    case = Case(head, weights=True, rows=64)
    policy = case.policy()
    g = random_vector(policy)
    ours = operator(case, policy).solve(g, 3, preconditioner="kfac")
    batch = case.batch(policy)
    module = Wrapped(policy)
    F = FisherOperator(module, batch.obs, weights=batch.weights, backend="reference")
    theirs = F.solve(g, 3, preconditioner="kfac")
    assert theirs.scaled_blocks == 0
    assert relative_error(theirs.x, ours.x) < 1e-9


class Mixed(nn.Module):
    """Convolution, a layer used twice, a layer norm, a linear head."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 3)
        self.twice = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.out = nn.Linear(3, 4, bias=False)

    def forward(self, obs):
        h = self.conv(obs.unsqueeze(1)).mean(-1).tanh()
        h = self.norm(self.twice(self.twice(h).tanh()))
        return torch.distributions.Categorical(logits=self.out(h))


@pytest.mark.parametrize("backend", ["reference", "autograd"])
def test_tensors_without_factors_are_scaled_and_counted(backend):
    torch.manual_seed(0)
    module = Mixed().double()
    obs = torch.randn(300, 8, dtype=torch.float64)
    F = FisherOperator(module, obs, damping=0.1, backend=backend)
    g = torch.randn(flat_params(module).numel(), dtype=torch.float64)
    found = F.solve(g, 200, 1e-12, preconditioner="kfac")
    assert found.scaled_blocks == 6 and int(found.restarts) == 0
    assert relative_error(found.x, torch.linalg.solve(F.dense(), g)) < 1e-8


def test_the_scale_of_a_tensor_without_factors_is_its_mean_curvature():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_std = nn.Parameter(torch.zeros(400, dtype=torch.float64))

        def forward(self, obs):
            mean = obs[:, :1].expand(-1, 400)
            return torch.distributions.Normal(mean, self.log_std.exp())

    module = Scale()
    F = FisherOperator(module, torch.randn(300, 2, dtype=torch.float64), backend="reference")
    factors = F._operator.kfac(1)
    scale = float(factors.inverses.scale[0])
    assert 1 / scale - 0.1 == pytest.approx(2.0, rel=0.3)  # F is 2 I there
