"""Products of modules: one run for all of them, honest about memory, whatever torch can
differentiate.
"""

from __future__ import annotations

import pytest
import torch
from exactness import relative_error
from module_cases import DISTRIBUTIONS, Custom
from torch import nn
from torch.autograd.function import once_differentiable
from torch.distributions import Categorical, Normal

from trpo_fast import Batch, FisherOperator, NaturalGradient, trpo_update
from trpo_fast.core.convolutions import twice_differentiable


class Pixels(nn.Module):
    """Convolutions of every kind before a linear head."""

    def __init__(self, value=False):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 4, 2, groups=2, dilation=2, bias=False),
            nn.Tanh(),
            nn.Conv2d(4, 3, 2, padding="same"),
            nn.Flatten(),
        )
        self.out, self.value = nn.Linear(27, 3), nn.Linear(27, 1) if value else None

    def forward(self, obs):
        features = self.trunk(obs)
        distribution = Categorical(logits=self.out(features))
        return distribution if self.value is None else (distribution, self.value(features))


def pixels(value=False):
    torch.manual_seed(0)
    return Pixels(value).double(), torch.randn(6, 2, 9, 9, dtype=torch.float64)


@pytest.mark.parametrize("chunk_rows", [None, 4])
@pytest.mark.parametrize("backend", ["reference", "autograd"])
def test_convolutions(backend, chunk_rows):
    if backend == "autograd" and chunk_rows:
        pytest.skip("autograd takes no chunks")
    policy, obs = pixels()
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.5, 1.0], dtype=torch.float64)
    F = FisherOperator(policy, obs, weights=weights, backend=backend, chunk_rows=chunk_rows)
    v = torch.randn(F.shape[0], 2, dtype=torch.float64)
    assert relative_error(F @ v, F.dense() @ v) < 1e-10


@pytest.mark.parametrize("make", [lambda: nn.Conv1d(2, 3, 3, 2, 1), lambda: nn.Conv3d(2, 3, 2)])
def test_a_convolution_is_differentiated_twice_as_torch_does(make):
    torch.manual_seed(0)
    layer = nn.Sequential(make().double(), nn.Tanh())
    parameters = list(layer.parameters())
    x = torch.randn(2, 2, *[5] * (parameters[0].ndim - 2), dtype=torch.float64)
    v = [torch.randn_like(p) for p in parameters]

    def hessian():
        y = layer(x)
        slopes = torch.autograd.grad((y.sin() * y).sum(), parameters, create_graph=True)
        return torch.autograd.grad(slopes, parameters, v)

    expected = hessian()
    with twice_differentiable(layer):
        found = hessian()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_module_may_return_a_value_beside_its_distribution():
    policy, obs = pixels(value=True)
    alone = Pixels().double()
    alone.load_state_dict(policy.state_dict(), strict=False)
    F, other = FisherOperator(policy, obs), FisherOperator(alone, obs)
    v = torch.randn(F.shape[0], dtype=torch.float64)
    size = other.shape[0]
    torch.testing.assert_close((F @ v)[:size], other @ v[:size])
    torch.testing.assert_close((F @ v)[size:], 0.1 * v[size:])  # damping alone
    batch = Batch(obs, torch.arange(6) % 3, torch.randn(6, dtype=torch.float64))
    kept = policy.value.weight.clone()
    assert trpo_update(policy, batch).accepted and torch.equal(policy.value.weight, kept)
    step = NaturalGradient(policy).step(lambda found: found.logits[:, 0].mean(), obs)
    assert step.accepted


class Counting(Custom):
    runs = 0

    def forward(self, obs):
        type(self).runs += 1
        self.rows = len(obs)
        assert self.rows == 9
        return super().forward(obs)


def test_a_solve_runs_the_module_once_on_all_its_rows():
    torch.manual_seed(0)
    policy, obs = Counting(DISTRIBUTIONS["normal"]), torch.randn(9, 4)
    F = FisherOperator(policy, obs, backend="reference")
    assert F.solve(torch.randn(F.shape[0]), iterations=4).iterations == 4
    assert Counting.runs == 1


class Pieces(Custom):
    """Takes few rows at a time."""

    most = 0

    def forward(self, obs):
        type(self).most = max(len(obs), self.most)
        return super().forward(obs)


def test_no_more_rows_are_run_at_a_time_than_asked_for():
    torch.manual_seed(0)
    policy, obs = Pieces(DISTRIBUTIONS["normal"]), torch.randn(30, 4)
    batch = Batch(obs, torch.randn(30, 2), torch.randn(30), group_size=3)
    assert trpo_update(policy, batch, chunk_rows=8, kl_reduction="mean").accepted
    assert Pieces.most == 9


def test_memory_counts_what_the_graphs_hold():
    torch.manual_seed(0)
    policy = Custom(DISTRIBUTIONS["normal"])
    sizes = []
    for rows in (100, 200):
        F = FisherOperator(policy, torch.randn(rows, 4), backend="reference")
        before = F.scratch_bytes
        F @ torch.randn(F.shape[0])
        sizes.append(F.scratch_bytes)
        assert before >= rows * 4 * (6 + 6 + 4)  # of LayerNorm, SiLU, Linear
        assert sizes[-1] > before
    assert 1.8 < sizes[1] / sizes[0] < 2.0


class Once(torch.autograd.Function):
    """x^3, which says how it is differentiated forward and back, and back no second time."""

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, delta):
        return 3.0 * ctx.saved_tensors[0] ** 2 * delta

    @staticmethod
    def jvp(ctx, tangent):
        return 3.0 * ctx.saved_tensors[0] ** 2 * tangent


class Cubic(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Linear(4, 3), function

    def forward(self, obs):
        return Categorical(logits=self.function(self.layer(obs)))


@pytest.mark.parametrize("beside", [0.0, 0.5])  # a way around it leads back, too
def test_an_operator_that_is_differentiated_once_has_its_forward_derivative(beside):
    torch.manual_seed(0)
    policy, obs = (
        Cubic(lambda x: Once.apply(x) + beside * x).double(),
        torch.randn(7, 4).double(),
    )
    other = Cubic(lambda x: x**3 + beside * x).double()
    other.load_state_dict(policy.state_dict())
    v = torch.randn(15, dtype=torch.float64)
    expected = FisherOperator(other, obs) @ v
    assert relative_error(FisherOperator(policy, obs) @ v, expected) < 1e-12


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(4, 3)

    def forward(self, obs):
        return Normal(torch.zeros(len(obs), 1), 1.0)


def test_a_distribution_that_depends_on_no_parameter():
    F = FisherOperator(Constant(), torch.randn(5, 4), backend="reference")
    v = torch.randn(F.shape[0])
    torch.testing.assert_close(F @ v, 0.1 * v)
