"""``NaturalGradient``: a step on any loss, with a distribution that a module returns or a KL."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from exactness import relative_error
from torch import nn
from torch.distributions import (
    Categorical,
    Gumbel,
    Independent,
    MultivariateNormal,
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
    register_head,
    trpo_update,
    unregister_head,
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


@pytest.mark.parametrize("options", OPTIONS, ids=str)
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


@pytest.mark.parametrize("options", OPTIONS[:2] + OPTIONS[3:4] + OPTIONS[5:], ids=str)
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


def test_its_state_is_that_of_an_optimiser(rows):
    module, _, _, loss = problem(Plain(), rows)
    first = NaturalGradient(module, max_kl=0.02, preconditioner="kfac", cg_iterations=4)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = NaturalGradient(module)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.state_dict() == first.state_dict()
    for group in second.param_groups:
        group["max_kl"] = 1e-5  # as a schedule would
    info = second.step(loss, rows)
    assert info.accepted and info.kl <= 1e-5 and info.factor_rows == 40
    second.param_groups[0]["max_kl"] = -1.0
    with pytest.raises(ValueError, match="max_kl: expected a finite number above 0"):
        second.step(loss, rows)
    assert isinstance(second, torch.optim.Optimizer) and "max_kl: -1.0" in repr(second)
    with pytest.raises(ValueError, match="param_group: expected one group"):
        second.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


def test_gradients_of_others_stay(rows):
    module, _, _, loss = problem(Plain(), rows)
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    NaturalGradient(module).step(loss, rows)
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in module.parameters())


@pytest.mark.filterwarnings("ignore:policy. the compiled module runs as it was")
def test_compiled_modules_serve_in_both_forms(rows):
    module, _, _, loss = problem(Plain(), rows)
    plain = copy.deepcopy(module)
    expected = NaturalGradient(plain).step(loss, rows)
    moved = flat_params(plain)
    called, closed = copy.deepcopy(module), copy.deepcopy(module)
    compiled = torch.compile(called, backend="aot_eager")
    assert NaturalGradient(compiled).step(loss, rows).kl == expected.kl
    assert torch.equal(flat_params(called), moved)
    compiled = torch.compile(closed, backend="aot_eager")
    with torch.no_grad():
        old = module(rows)
    info = NaturalGradient(compiled).step(
        lambda: loss(compiled(rows)), lambda: kl_divergence(old, compiled(rows)).mean()
    )
    assert info.accepted and relative_error(flat_params(closed), moved) < 1e-9


def test_autocast_does_not_reach_in(rows):
    module, _, _, loss = problem(Plain(), rows.float(), dtype=torch.float32)
    rows = rows.float()
    others = [copy.deepcopy(module) for _ in range(4)]

    def steps(called, closed):
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            old = closed(rows)
        return NaturalGradient(called).step(loss, rows), NaturalGradient(closed).step(
            lambda: loss(closed(rows)), lambda: kl_divergence(old, closed(rows)).mean()
        )

    expected = steps(*others[:2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert steps(*others[2:]) == expected
    for a, b in zip(others[:2], others[2:], strict=True):
        assert torch.equal(flat_params(a), flat_params(b))


def test_a_closure_may_begin_autocast_itself(rows):
    module, _, _, loss = problem(Plain(), rows.float(), dtype=torch.float32)
    with torch.no_grad():
        old = module(rows.float())

    def lower(value):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return value(module(rows.float())).bfloat16()

    info = NaturalGradient(module).step(
        lambda: lower(loss), lambda: lower(lambda new: kl_divergence(old, new).mean())
    )
    assert info.accepted and info.loss_after < info.loss_before


def test_a_copy_steps_with_a_module_of_its_own(rows):
    module, _, _, loss = problem(Plain(), rows)
    first = NaturalGradient(module, max_kl=0.02, preconditioner=torch.clone, fvp_rows=30)
    second, before = copy.deepcopy(first), flat_params(module).clone()
    expected = second.step(loss, rows)
    assert expected.accepted and torch.equal(flat_params(module), before)
    assert first.step(loss, rows) == expected
    assert torch.equal(flat_params(module), flat_params(second.module))


class Recurrent(nn.Module):
    """Sequences [T, B, 4] to a distribution over T rows of B choices."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.GRUCell(4, 6), nn.Linear(6, 2)

    def forward(self, obs):
        h, means = obs.new_zeros(obs.shape[1], 6), []
        for step in obs:
            h = self.cell(step, h)
            means.append(self.out(h))
        mean = torch.stack(means).flatten(0, 1)
        return Independent(Normal(mean, torch.ones_like(mean)), 1)


@pytest.mark.parametrize("preconditioner", [None, "kfac"])
def test_rows_may_belong_together(preconditioner):
    torch.manual_seed(0)
    obs = torch.randn(5, 3, 4, dtype=torch.float64)
    module, _, _, loss = problem(Recurrent().double(), obs)
    with torch.no_grad():
        old = module(obs)
    info = NaturalGradient(module, preconditioner=preconditioner).step(loss, obs)
    assert info.accepted and info.kl <= 0.01
    assert abs(kl_divergence(old, module(obs)).mean().item() - info.kl) < 1e-12
    words = r"the error: inputs whose rows belong together"
    with pytest.raises(ValueError, match=words):
        NaturalGradient(module, fvp_rows=4).step(loss, obs)


class Correlated(Plain):
    def forward(self, obs):
        mean, root = self.layers(obs).split([2, 4], -1)
        root = root.view(-1, 2, 2).tril(-1) + torch.eye(2).to(obs)
        return MultivariateNormal(mean, scale_tril=root)


def test_a_registered_head_serves(rows):
    register_head(MultivariateNormal, params=("loc", "scale_tril"))
    try:
        module, _, _, loss = problem(Correlated(6), rows)
        with torch.no_grad():
            old = module(rows)
        info = NaturalGradient(module, preconditioner="kfac").step(loss, rows)
    finally:
        unregister_head(MultivariateNormal)
    assert info.accepted and info.restarts == 0
    assert abs(kl_divergence(old, module(rows)).mean().item() - info.kl) < 1e-12


class Normed(Plain):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, obs):
        return super().forward(self.norm(obs))


def test_a_module_that_writes_buffers_is_refused_as_it_was(rows):
    module = Normed().double()
    kept = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=r"policy: .*write no buffers.*to module.norm.num_batches"):
        NaturalGradient(module).step(lambda found: found.logits.mean(), rows)
    assert all(torch.equal(kept[name], value) for name, value in module.state_dict().items())


def test_mistakes_are_named(rows):
    module, _, _, loss = problem(Plain(), rows)
    optimizer = NaturalGradient(module)
    zero = lambda: 0.0 * flat_params(module).sum()  # noqa: E731
    mistakes = {
        "inputs: expected what the module is called on": lambda: optimizer.step(loss),
        "loss: expected a function that returns one number.*got float64 \\[40\\]": lambda: (
            optimizer.step(lambda found: found.entropy(), rows)
        ),
        "loss: expected .*got float": lambda: optimizer.step(lambda found: 3.0, rows),
        "loss: expected a function of the distribution": lambda: optimizer.step(
            lambda found: torch.zeros(()), rows
        ),
        "loss: expected a function of the module's parameters": lambda: optimizer.step(zero, zero),
        "kl: expected a function of the module's parameters": lambda: optimizer.step(
            lambda: loss(module(rows)), zero
        ),
        "kl: expected a function that can be differentiated twice": lambda: optimizer.step(
            lambda: loss(module(rows)), lambda: sum(p.sum() for p in module.parameters())
        ),
        "preconditioner: expected a function or None": lambda: NaturalGradient(
            module, preconditioner="kfac"
        ).step(lambda: loss(module(rows)), lambda: loss(module(rows))),
        "losses: expected a list of at least one function": lambda: optimizer.solve([], rows),
        "direction: expected shape": lambda: optimizer.search(
            rows[0], [loss], lambda values: True, rows
        ),
        "policy: expected a module that returns": lambda: NaturalGradient(nn.Linear(4, 2)).step(
            loss, rows.float()
        ),
        "policy: expected a torch.nn.Module": lambda: NaturalGradient([]),
        "damping: expected": lambda: NaturalGradient(module, damping=-1.0),
    }
    for words, mistake in mistakes.items():
        with pytest.raises(ValueError, match=words):
            mistake()
