"""``NaturalGradient``: a step on any loss, with a distribution that a module returns or a KL."""

from __future__ import annotations

import copy

import pytest
import torch
from exactness import relative_error
from loop_cases import Plain, problem
from torch import nn
from torch.distributions import (
    Gumbel,
    Independent,
    Normal,
    kl_divergence,
)

from trpo_fast import (
    Batch,
    FisherOperator,
    Gaussian,
    MLPPolicy,
    NaturalGradient,
    flat_params,
    trpo_update,
)
from trpo_fast import Categorical as CategoricalHead


class Net(nn.Module):
    """Two inputs, one of them in a dict."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(2, 8)
        self.out = nn.Linear(8, 6)

    def forward(self, obs, more):
        h = torch.tanh(self.first(obs) + self.second(more["goal"]))
        mean, log_std = self.out(h).chunk(2, -1)
        return Independent(Normal(mean, log_std.exp()), 1)


@pytest.fixture
def rows():
    torch.manual_seed(0)
    return torch.randn(40, 4, dtype=torch.float64)


def same(info, expected):
    """A step and an update that did the same."""
    assert info.reason == expected.reason and info.backtracks == expected.backtracks
    pairs = [
        (info.kl, expected.kl),
        (-info.loss_before, expected.surrogate_before),
        (-info.loss_after, expected.surrogate_after),
        (info.step_size, expected.step_size),
        (info.quad, expected.quad),
        (info.linear_gain, expected.linear_gain),
        (info.gradient_norm, expected.gradient_norm),
    ]
    for ours, theirs in pairs:
        assert abs(ours - theirs) < 1e-5 * max(1.0, abs(theirs))
    assert (info.cg_iterations, info.factor_rows) == (expected.cg_iterations, expected.factor_rows)


OPTIONS = [
    {},
    {"max_kl": 0.1, "damping": 0.01, "backtrack_ratio": 0.5, "backtrack_steps": 3},
    {"preconditioner": "kfac", "cg_iterations": 3, "factor_fraction": 1.0},
    {"cg_gain_tol": 0.2},
    {"cg_tol": 0.3, "fvp_rows": 20},
    {"preconditioner": lambda r: 2.0 * r},
]


@pytest.mark.parametrize("options", OPTIONS, ids="-".join)
def test_a_step_is_the_update_on_the_same_loss(rows, options):
    module, actions, advantages, loss = problem(Plain(), rows)
    other = copy.deepcopy(module)
    info = NaturalGradient(module, **options).step(loss, rows)
    expected = trpo_update(other, Batch(rows, actions, advantages), **options)
    same(info, expected)
    assert info.accepted and relative_error(flat_params(module), flat_params(other)) < 1e-9


@pytest.mark.parametrize("backend", ["auto", "reference", "autograd"])
def test_an_mlp_policy_has_the_products_of_its_backend(rows, backend):
    policy = MLPPolicy(4, Gaussian(2), hidden=(8, 8))
    rows = rows.float()
    module, actions, advantages, loss = problem(policy, rows, dtype=torch.float32)
    other = copy.deepcopy(module)
    info = NaturalGradient(module, backend=backend).step(loss, rows)
    expected = trpo_update(other, Batch(rows, actions, advantages), backend=backend)
    same(info, expected)
    assert info.backend == expected.backend
    assert relative_error(flat_params(module), flat_params(other)) < 1e-4


def test_masks_are_an_mlp_policys_second_input(rows):
    torch.manual_seed(0)
    mask = torch.rand(40, 3) < 0.7
    mask[:, 0] = True
    policy = MLPPolicy(4, CategoricalHead(3), hidden=(8,))
    module, actions, advantages, loss = problem(policy, rows.float(), mask, dtype=torch.float32)
    other = copy.deepcopy(module)
    info = NaturalGradient(module).step(loss, rows.float(), mask)
    same(info, trpo_update(other, Batch(rows.float(), actions, advantages, action_mask=mask)))


def test_inputs_are_several_tensors_and_dicts(rows):
    more = {"goal": torch.randn(40, 2, dtype=torch.float64)}
    torch.manual_seed(0)
    module, _, _, loss = problem(Net().double(), rows, more)
    with torch.no_grad():
        old = module(rows, more)
    info = NaturalGradient(module, preconditioner="kfac", fvp_rows=30).step(loss, rows, more)
    assert info.accepted and info.factor_rows == 30 and info.restarts == 0
    assert abs(kl_divergence(old, module(rows, more)).mean().item() - info.kl) < 1e-12
    assert abs(loss(module(rows, more)).item() - info.loss_after) < 1e-12
    assert info.loss_after < info.loss_before and info.kl <= 0.01


@pytest.mark.parametrize("options", OPTIONS[:2] + OPTIONS[3:4] + OPTIONS[5:], ids="-".join)
def test_a_kl_of_ones_own_gives_the_same_step(rows, options):
    module, _, _, loss = problem(Plain(), rows)
    other = copy.deepcopy(module)
    expected = NaturalGradient(other, **options).step(loss, rows)
    with torch.no_grad():
        old = module(rows)
    info = NaturalGradient(module, **options).step(
        lambda: loss(module(rows)), lambda: kl_divergence(old, module(rows)).mean()
    )
    assert info.backend == "autograd" and info.backtracks == expected.backtracks
    assert info.cg_iterations == expected.cg_iterations
    assert abs(info.kl - expected.kl) < 1e-12 and abs(info.loss_after - expected.loss_after) < 1e-12
    assert relative_error(flat_params(module), flat_params(other)) < 1e-9


def test_a_closure_may_return_the_distribution(rows):
    module, _, _, loss = problem(Plain(), rows)
    other = copy.deepcopy(module)
    expected = NaturalGradient(other).step(loss, rows)
    optimizer = NaturalGradient(module)
    info = optimizer.step(lambda: loss(module(rows)), lambda: module(rows))
    assert abs(info.kl - expected.kl) < 1e-12 and info.backtracks == expected.backtracks
    assert relative_error(flat_params(module), flat_params(other)) < 1e-9
    x = optimizer.solve([lambda: loss(module(rows))], lambda: module(rows)).x[:, 0]
    old, before = module(rows), flat_params(module).clone()
    moved = optimizer.search(
        -0.01 * x, [lambda: loss(module(rows))], lambda new: True, lambda: module(rows)
    )
    assert abs(moved.kl - kl_divergence(old, module(rows)).mean().item()) < 1e-12
    assert relative_error(flat_params(module), before - 0.01 * x) < 1e-12
    with pytest.raises(ValueError, match=r"policy: expected a module that returns .*Gumbel"):
        optimizer.step(lambda: loss(module(rows)), lambda: Gumbel(module(rows).logits, 1.0))


def test_several_losses_are_solved_at_once(rows):
    module, _, _, loss = problem(Plain(), rows)
    cost = lambda found: found.probs[:, 0].mean()  # noqa: E731
    F = FisherOperator(module, rows, damping=0.1)
    found = NaturalGradient(module, cg_iterations=40).solve([loss, cost], rows)
    wanted = [loss(module(rows)), cost(module(rows))]
    gradients = [
        torch.cat([g.reshape(-1) for g in torch.autograd.grad(v, list(module.parameters()))])
        for v in wanted
    ]
    g = torch.stack(gradients, 1)
    x = torch.linalg.solve(F.dense(), g)
    assert relative_error(found.losses, torch.stack(wanted).detach()) < 1e-12
    assert relative_error(found.gradients, g) < 1e-12 and relative_error(found.x, x) < 1e-6
    assert relative_error(found.products, g.T @ x) < 1e-6
    with torch.no_grad():
        old = module(rows)
    pair = [lambda: loss(module(rows)), lambda: cost(module(rows))]
    other = NaturalGradient(module, cg_iterations=40).solve(
        pair, lambda: kl_divergence(old, module(rows)).mean()
    )
    assert relative_error(other.x, x) < 1e-6


def test_a_search_holds_to_its_kl_and_to_what_is_accepted(rows):
    module, _, _, loss = problem(Plain(), rows)
    optimizer = NaturalGradient(module, max_kl=0.01, backtrack_ratio=0.5)
    x = optimizer.solve([loss], rows).x[:, 0]
    before, seen = flat_params(module).clone(), []

    def accept(values):
        seen.append(values.tolist())
        return len(seen) == 2

    info = optimizer.search(-0.1 * x, [loss, lambda found: found.entropy().mean()], accept, rows)
    assert info.accepted and info.backtracks == 1 and len(info.losses_after) == 2
    assert relative_error(flat_params(module), before - 0.05 * x) < 1e-12
    assert info.losses_after == tuple(seen[1]) and info.step_size == 0.5
    before = flat_params(module).clone()
    far = optimizer.search(-1e3 * x, [loss], lambda values: True, rows)
    assert far.reason == "line_search_failed" and far.backtracks == 10 and far.kl == 0.0
    assert torch.equal(flat_params(module), before) and far.losses_after == far.losses_before


@pytest.mark.parametrize("form", ["inputs", "closures"])
def test_a_trial_without_a_distribution_is_not_taken(rows, form):
    module, _, _, loss = problem(Plain(), rows)
    before = flat_params(module).clone()
    optimizer, far = NaturalGradient(module), torch.full_like(before, float("inf"))
    if form == "inputs":
        info = optimizer.search(far, [loss], lambda new: True, rows)
    else:
        info = optimizer.search(
            far, [lambda: loss(module(rows))], lambda new: True, lambda: module(rows)
        )
    assert info.reason == "line_search_failed" and torch.equal(flat_params(module), before)

    def raising(*arguments):
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        optimizer.search(0.0 * before, [raising], lambda new: True, rows)


def test_reasons_why_nothing_moves(rows):
    module, _, _, loss = problem(Plain(), rows)
    before = flat_params(module).clone()
    optimizer = NaturalGradient(module)
    assert optimizer.step(lambda found: 0.0 * loss(found), rows).reason == "zero_gradient"
    assert optimizer.step(lambda found: loss(found) / 0.0, rows).reason == "non_finite"
    rising = iter(range(1, 100))
    info = optimizer.step(lambda found: loss(found) + 10.0 * next(rising), rows)
    assert info.reason == "line_search_failed" and not info.accepted and info.step_size == 0.0
    concave = lambda: -sum(p.square().sum() for p in module.parameters())  # noqa: E731
    info = optimizer.step(lambda: loss(module(rows)), concave)
    assert info.reason == "negative_curvature"
    assert torch.equal(flat_params(module), before)
    assert info.as_dict()["reason"] == "negative_curvature"


def test_what_a_closure_raises_leaves_the_parameters_as_they_were(rows):
    module, _, _, loss = problem(Plain(), rows)
    before, calls = flat_params(module).clone(), []

    def kl():
        calls.append(flat_params(module).clone())
        if len(calls) == 2:
            raise KeyboardInterrupt
        return kl_divergence(old, module(rows)).mean()

    with torch.no_grad():
        old = module(rows)
    with pytest.raises(KeyboardInterrupt):
        NaturalGradient(module).step(lambda: loss(module(rows)), kl)
    assert not torch.equal(calls[1], before) and torch.equal(flat_params(module), before)
