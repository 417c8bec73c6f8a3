"""rat_update: its direction against a dense solve on the same rows, what it refuses, failures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import HEADS, HIDDEN, Case, every_shape, few, poison, thinned
from exactness import SOLUTION, no_worse, relative_error
from torch import nn

from trpo_fast import Batch, Categorical, MLPPolicy, flat_params, rat_update, trpo_update
from trpo_fast.backends.registry import registry
from trpo_fast.core import gram as gram_module
from trpo_fast.updates.rat import direct_solve, rat_problem

DAMPING = 0.1


def setup(case=None):
    case = case or Case()
    policy = case.policy()
    return policy, case.batch(policy)


def aged(batch):
    """Ratios other than 1, as in a second update on the same rows."""
    shift = torch.linspace(-0.3, 0.4, len(batch), dtype=batch.log_probs.dtype)
    return replace(batch, log_probs=batch.log_probs + shift)


def found(policy, batch, damping=DAMPING, max_rows=2048, **options):
    problem = rat_problem(policy, batch, damping, max_rows, options, True)
    return direct_solve(problem, gradient(policy, batch))


def log_probs(policy, batch):
    params = policy.distribution_params(batch.obs, batch.action_mask)
    return policy.head.log_prob(params, batch.actions)


def value(policy, batch):
    """The surrogate by its definition."""
    ratio = (log_probs(policy, batch) - batch.log_probs).exp()
    weights = torch.ones_like(ratio) if batch.weights is None else batch.weights
    if batch.group_size is None:
        return (weights * ratio * batch.advantages).sum() / weights.sum()
    mass, shape = weights * ratio, (-1, batch.group_size)
    groups = (mass * batch.advantages).view(shape).sum(1) / mass.view(shape).sum(1)
    return (weights.view(shape).sum(1) * groups).sum() / weights.sum()


def flat(parts):
    return torch.cat([p.reshape(-1) for p in parts])


def score_matrix(policy, batch):
    """The gradient of every row's log-probability [N, P], one at a time."""
    parameters = list(policy.parameters())
    every = log_probs(policy, batch)
    return torch.stack(
        [flat(torch.autograd.grad(one, parameters, retain_graph=True)) for one in every]
    ).detach()


def gradient(policy, batch):
    return flat(torch.autograd.grad(value(policy, batch), list(policy.parameters())))


def dense(policy, batch, damping=DAMPING, scale=1.0, index=None):
    """(F + damping I)^-1 g with F [P, P] of some rows, by default all: x, g and the matrix."""
    rows = batch if index is None else replace(batch.rows(index), group_size=None)
    scores = score_matrix(policy, rows)
    weights = torch.ones_like(rows.advantages) if rows.weights is None else rows.weights
    fisher = scale * scores.T @ (scores * (weights / weights.sum()).unsqueeze(-1))
    matrix = fisher + damping * torch.eye(len(fisher), dtype=fisher.dtype)
    g = gradient(policy, batch)
    return torch.linalg.solve(matrix, g), g, matrix


SHAPES = thinned(every_shape(), 7) + few() + [Case(h, hidden=w) for h in HEADS for w in HIDDEN[::3]]


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_the_direction_is_that_of_a_dense_solve(case):
    policy, batch = setup(case)
    batch = aged(batch)
    x, g, matrix = dense(policy, batch)
    direction = found(policy, batch)
    assert bool(direction.finite) and bool(direction.positive)
    assert relative_error(direction.x, x) < 1e-10
    assert float(direction.quad) == pytest.approx(float(x @ matrix @ x), rel=1e-10)
    assert float(direction.residual_norm) <= 1e-12 * float(g.norm())


@pytest.mark.parametrize("case", few(), ids=str)
def test_float32_is_as_exact_as_a_dense_float32_solve(case):
    policy, batch = setup(replace(case, rows=129))
    exact = dense(policy, batch)[0]
    policy, batch = setup(replace(case, rows=129, dtype=torch.float32))
    no_worse(found(policy, batch).x, dense(policy, batch)[0], exact, SOLUTION)


@pytest.mark.parametrize("damping", [1e-8, 1e-3, 10.0])
def test_any_damping(damping):
    policy, batch = setup()
    assert relative_error(found(policy, batch, damping).x, dense(policy, batch, damping)[0]) < 1e-6


def test_more_rows_than_a_tile(monkeypatch):
    policy, batch = setup(Case(rows=129, weights=True))
    whole = found(policy, batch)
    monkeypatch.setattr(gram_module, "TILE", 50)
    assert relative_error(found(policy, batch).x, whole.x) < 1e-13


PARTS = [
    ({"max_rows": 10}, torch.arange(10) * 32 // 10),
    ({"fvp_rows": 10}, torch.arange(10) * 32 // 10),
    ({"fvp_rows": torch.tensor([0, 1, 3, 5, 8, 13, 21])}, torch.tensor([0, 1, 3, 5, 8, 13, 21])),
    ({"fvp_rows": torch.tensor([0, 1, 3, 5, 8, 13]), "max_rows": 3}, torch.tensor([0, 3, 8])),
    ({"max_rows": 1}, torch.tensor([0])),
]


@pytest.mark.parametrize("case", [*few(), Case(weights=True, group_size=4)], ids=str)
@pytest.mark.parametrize(("options", "index"), PARTS, ids=str)
def test_a_part_of_the_rows_serves_the_gradient_of_all(case, options, index):
    policy, batch = setup(replace(case, rows=32))
    batch = aged(batch)
    x, g, matrix = dense(policy, batch, index=index)
    direction = found(policy, batch, **options)
    assert relative_error(direction.x, x) < 1e-9
    assert float(direction.quad) == pytest.approx(float(x @ matrix @ x), rel=1e-9)
    assert float(direction.residual_norm) < 1e-11 * float(g.norm())


@pytest.mark.parametrize("case", few(), ids=str)
def test_a_part_of_the_rows_in_float32(case):
    index, exact = torch.arange(40) * 129 // 40, {}
    for dtype in (torch.float64, torch.float32):
        policy, batch = setup(replace(case, rows=129, dtype=dtype))
        exact[dtype] = dense(policy, batch, index=index)[0]
    no_worse(
        found(policy, batch, max_rows=40).x, exact[torch.float32], exact[torch.float64], SOLUTION
    )


def test_groups_share_a_denominator():
    policy, batch = setup(Case(rows=32, weights=True, group_size=4))
    batch = aged(batch)
    assert relative_error(found(policy, batch).x, dense(policy, batch)[0]) < 1e-10


@pytest.mark.parametrize("rows", [None, 20])
@pytest.mark.parametrize("case", few(), ids=str)
def test_it_is_trpo_with_the_empirical_matrix_solved_exactly(case, rows):
    results = []
    for update, options in (
        (rat_update, {}),
        (trpo_update, {"fisher": "empirical", "cg_iterations": 500, "cg_tol": 1e-13}),
    ):
        policy, batch = setup(case)
        options |= {"kl_reduction": "mean", "kl_direction": "reverse", "fvp_rows": rows}
        info = update(policy, aged(batch), **options)
        assert info.accepted and info.kl <= 0.01
        results.append((flat_params(policy).clone(), info))
    (mine, info), (theirs, other) = results
    assert relative_error(mine, theirs) < 1e-8
    assert info.cg_iterations == 0 and info.cg_residual < 1e-11 * info.gradient_norm
    for name in ("kl", "surrogate_before", "surrogate_after", "quad", "step_size", "gradient_norm"):
        assert getattr(info, name) == pytest.approx(getattr(other, name), rel=1e-6), name
    assert info.backtracks == other.backtracks


def test_without_log_probs_ratios_are_one():
    (policy, batch), (same, _) = setup(), setup()
    rat_update(policy, batch)
    rat_update(same, replace(batch, log_probs=None))
    assert relative_error(flat_params(policy), flat_params(same)) < 1e-12


@pytest.mark.parametrize("case", few(), ids=str)
def test_padding_and_chunks_change_nothing(case):
    results = []
    for change in (lambda b: b, poison):
        for chunk_rows in (None, 10):
            policy, batch = setup(case)
            assert rat_update(policy, change(batch), chunk_rows=chunk_rows).accepted
            results.append(flat_params(policy).clone())
    assert all(relative_error(r, results[0]) < 1e-10 for r in results[1:])


def test_padding_needs_no_damping():
    policy, batch = setup(Case(rows=20, weights=True))
    kept = batch.rows(batch.weights > 0)
    full = found(policy, poison(batch), 0.0)
    assert bool(full.positive) and relative_error(full.x, found(policy, kept, 0.0).x) < 1e-9


@pytest.mark.parametrize("backend", [n for n, b in registry().items() if b.machine_support()])
def test_every_backend_searches_the_same_line(backend):
    case = Case("categorical", weights=True, masks=True, rows=129, dtype=torch.float32)
    results = []
    for name in ("reference", backend):
        policy, batch = setup(case)
        info = rat_update(policy, batch, backend=name, max_rows=50)
        assert info.accepted and info.backend == name
        results.append(flat_params(policy).clone())
    assert relative_error(results[1], results[0]) < 1e-6


def test_equal_inputs_give_equal_bits():
    flats = []
    for _ in range(2):
        policy, batch = setup(Case(dtype=torch.float32, rows=600, weights=True))
        stats = rat_update(policy, batch).stats
        flats.append(torch.cat([flat_params(policy).double(), stats]))
    assert torch.equal(*flats)


def failing():
    """A change to a good batch or its options, and the reason the update must give."""
    same = lambda b: b  # noqa: E731
    zero = lambda b: replace(b, advantages=torch.zeros_like(b.advantages))  # noqa: E731
    nan = lambda b: replace(b, advantages=b.advantages * float("nan"))  # noqa: E731
    huge = lambda b: replace(b, log_probs=torch.full_like(b.log_probs, -800.0))  # noqa: E731
    # Equal rows: without damping the matrix has no inverse.
    twice = lambda b: b.rows(torch.zeros(8, dtype=torch.int64))  # noqa: E731
    return [
        ("zero_gradient", zero, {}),
        ("bad_values", nan, {}),
        ("non_finite", huge, {}),
        ("non_finite", same, {"damping": 0.0, "max_rows": 5}),
        ("negative_curvature", twice, {"damping": 0.0}),
        ("line_search_failed", same, {"max_kl": 1e-300}),
        ("line_search_failed", same, {"max_kl": 1e300, "backtrack_steps": 3}),
    ]


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("reason, change, options", failing(), ids=lambda v: str(v)[:20])
def test_failure_leaves_every_bit(reason, change, options, sync):
    policy, batch = setup()
    before = flat_params(policy).clone()
    if reason == "bad_values" and sync:
        with pytest.raises(ValueError, match="advantages: expected finite values, got nan"):
            rat_update(policy, change(batch), sync=True)
    else:
        info = rat_update(policy, change(batch), sync=sync, **options)
        assert info.reason == reason and not info.accepted and info.step_size == 0
        assert info.kl == 0
        assert repr(info.surrogate_after) == repr(info.surrogate_before)
    assert torch.equal(flat_params(policy), before)


class Softmax(nn.Module):
    """A module of the user's."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(5, 4)

    def forward(self, obs):
        return torch.distributions.Categorical(logits=self.map(obs))


def test_other_modules_are_refused():
    rows = Batch(torch.randn(6, 5), torch.zeros(6, dtype=torch.int64), torch.randn(6))
    expected = "policy: expected an MLPPolicy as it comes, whose rows' gradients follow"
    with pytest.raises(ValueError, match=f"^{expected}.*, got Softmax$"):
        rat_update(Softmax(), rows)
    policy = MLPPolicy(5, Categorical(4), (3,))
    policy.net[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=f"^{expected}.*, got one where net.0 is frozen$"):
        rat_update(policy, rows)
