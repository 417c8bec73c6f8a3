"""``NaturalGradient`` as an optimiser, around compiled modules and autocast; what it refuses."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from exactness import relative_error
from loop_cases import Plain, problem
from torch import nn
from torch.distributions import (
    Independent,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from trpo_fast import (
    NaturalGradient,
    flat_params,
    register_head,
    unregister_head,
)


@pytest.fixture
def rows():
    torch.manual_seed(0)
    return torch.randn(40, 4, dtype=torch.float64)


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


def test_it_differentiates_where_gradients_are_off_but_not_in_inference_mode(rows):
    module, _, _, loss = problem(Plain(), rows)
    optimizer = NaturalGradient(module)
    with torch.no_grad():
        assert optimizer.step(loss, rows).accepted
        assert optimizer.step(lambda: loss(module(rows)), lambda: module(rows)).accepted
    with (
        torch.inference_mode(),
        pytest.raises(ValueError, match=r"outside of torch\.inference_mode"),
    ):
        optimizer.step(loss, rows)


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
        "module: expected a torch.nn.Module": lambda: NaturalGradient([]),
        "damping: expected": lambda: NaturalGradient(module, damping=-1.0),
    }
    for words, mistake in mistakes.items():
        with pytest.raises(ValueError, match=words):
            mistake()
