"""K-FAC inside the CPU core's conjugate gradient: factors, their inverses and solves against the
reference, bits, and what happens where the factors are none.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from cases import Case, few, poison, random_vector, thinned, weighted
from cpu_cases import (
    all_shapes,
    every_isa,
    in_double,
    native,
    needs_native,
    operator_of,
    single,
    update_case,
    update_cases,
)
from exactness import SOLUTION, SUMS, no_worse, relative_error

from trpo_fast import FisherOperator, flat_params, trpo_update
from trpo_fast.core import preconditioner, reference
from trpo_fast.core.batch import normalised_weights, total_weight
from trpo_fast.core.preconditioner import picked_rows, signs
from trpo_fast.core.problem import CgConfig

pytestmark = needs_native
KFAC = CgConfig(4, preconditioner="kfac", fraction=0.5)
OPTIONS = [
    {},
    {"chunk_rows": 40},
    {"fvp_rows": 66, "kl_reduction": "mean"},
    {"damping": 0.001},
]


@pytest.fixture(autouse=True)
def _factors_of_few_rows(monkeypatch):
    monkeypatch.setattr(preconditioner, "FEWEST_ROWS", 1)


@pytest.fixture
def threads():
    """Sets torch's thread count for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def expected_factors(policy, batch, stride):
    """Every map's A and G from the stages, in the dtype of the policy."""
    theta = flat_params(policy).detach()
    numbers = picked_rows(len(batch), stride, theta.device)
    part = batch.without_padding().rows(numbers)
    acts = reference.forward(theta, policy.spec, policy.head, part.obs, part.action_mask)
    xi = signs(numbers, acts.params.shape[-1], theta.dtype)
    delta = policy.head.metric_root(acts.params, xi)
    weights = normalised_weights(part, total_weight(part, theta.dtype))
    return reference.factors(theta, policy.spec, acts, delta, weights)


@every_isa
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("case", [*few(), *thinned(all_shapes(), 6)], ids=str)
def test_factors(case, stride, isa, monkeypatch):
    monkeypatch.setenv("TRPO_FAST_ISA", isa)
    policy, batch = single(case)
    if not case.weights or case.rows > 2 * stride:
        found = native(policy, batch).factors(stride)
        theirs = expected_factors(policy, batch, stride)
        truth = expected_factors(*in_double(policy, batch), stride)
        for l, maps in enumerate(zip(found, theirs, truth, strict=True)):
            for name, ours, single_, double in zip("AG", *maps, strict=True):
                no_worse(ours, single_, double, SUMS, f"{name} of map {l}")


@every_isa
@pytest.mark.parametrize("options", [*OPTIONS, {"damping": 0.0}], ids=str)
@pytest.mark.parametrize("case", update_cases(), ids=str)
def test_application(case, options, isa, monkeypatch):
    monkeypatch.setenv("TRPO_FAST_ISA", isa)
    policy, batch = single(case)
    r = random_vector(policy)
    ours = native(policy, batch, **options).precondition(r, 2)
    theirs = operator_of("reference", policy, batch, **options).kfac(2)(r)
    truth = operator_of("reference", *in_double(policy, batch), **options).kfac(2)(r.double())
    no_worse(ours, theirs, truth, SUMS, "M^-1 r")


def solved(policy, batch, g, config, **options):
    """Ours, the float32 reference's and the float64 reference's."""
    double = operator_of("reference", *in_double(policy, batch), **options)
    return (
        native(policy, batch, **options).solve(g, config),
        operator_of("reference", policy, batch, **options).solve(g, config),
        double.solve(g.double(), config),
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("case", [*update_cases(), *thinned(all_shapes(), 9)], ids=str)
def test_solve(case, options):
    if "fvp_rows" in options:
        options = {**options, "fvp_rows": torch.arange(case.rows > 1, case.rows, 3)}
    policy, batch = single(case)
    g = random_vector(policy, columns=3).T.contiguous()
    ours, theirs, truth = solved(policy, batch, g, KFAC, **options)
    no_worse(ours.x, theirs.x, truth.x, SOLUTION, "x")
    no_worse(ours.quad, theirs.quad, truth.quad, SOLUTION, "quad")
    no_worse(ours.linear_gain, theirs.linear_gain, truth.linear_gain, SOLUTION, "linear gain")
    assert ours.iterations.tolist() == theirs.iterations.tolist()
    assert ours.restarts.tolist() == theirs.restarts.tolist()
    assert ours.factor_rows == theirs.factor_rows


@pytest.mark.parametrize("case", update_cases(), ids=str)
def test_solve_without_damping(case):
    """F alone is singular, and so would its factors be without their floor."""
    policy, batch = single(case)
    g, _ = native(policy, batch).gradient()
    ours, theirs, truth = solved(policy, batch, g, replace(KFAC, iterations=2), damping=0.0)
    no_worse(ours.x, theirs.x, truth.x, SOLUTION, "x")
    assert ours.restarts == 0 and ours.iterations == 2


@every_isa
def test_wide_solve_on_every_instruction_set(isa, monkeypatch):
    monkeypatch.setenv("TRPO_FAST_ISA", isa)
    policy, batch = single(Case("gaussian_state", (300, 33), "silu", 900, obs_dim=70))
    g = random_vector(policy, columns=9).T.contiguous()
    ours, theirs, truth = solved(policy, batch, g, KFAC)
    no_worse(ours.x, theirs.x, truth.x, SOLUTION, "x")
    assert not ours.restarts.any()


@pytest.mark.parametrize("case", few(), ids=str)
def test_rows_of_weight_zero_are_not_read(case):
    policy, batch = single(case)
    g = random_vector(policy)
    clean = native(policy, batch).solve(g, KFAC)
    assert torch.equal(native(policy, poison(batch)).solve(g, KFAC).x, clean.x)
    assert clean.restarts == 0


def test_columns_equal_single_solves():
    policy, batch = single(update_case("gaussian"))
    operator = native(policy, batch)
    g = random_vector(policy, columns=10).T.contiguous()
    together = operator.solve(g, KFAC)
    alone = [native(policy, batch).solve(row, KFAC) for row in g]
    assert torch.equal(together.x, torch.stack([s.x for s in alone]))
    assert torch.equal(together.linear_gain, torch.stack([s.linear_gain for s in alone]))


@pytest.mark.parametrize("exponent", [-120, -60, 90])
def test_a_power_of_two_in_g_is_exact(exponent):
    policy, batch = single(update_case("gaussian"))
    g = random_vector(policy)
    operator, by = native(policy, batch), 2.0**exponent
    scaled = operator.solve(g * by, KFAC)
    assert torch.equal(scaled.x / by, operator.solve(g, KFAC).x)
    assert scaled.restarts == 0


def test_fewer_products_for_the_same_gain():
    """Three products with factors bring more of x'Ax than six without."""
    policy, batch = single(Case(rows=1500, hidden=(32, 32), obs_dim=17, activation="tanh"))
    batch = replace(batch, obs=batch.obs * torch.logspace(-1, 1, 17))
    operator = native(policy, batch, damping=0.01)
    g, _ = operator.gradient()
    quick = operator.solve(g, replace(KFAC, iterations=3))
    assert quick.quad > operator.solve(g, CgConfig(6)).quad


@every_isa
@pytest.mark.parametrize("hidden", [(), (64, 64), (300, 256)], ids=str)
def test_equal_bits_for_any_number_of_threads(hidden, isa, threads, monkeypatch):
    monkeypatch.setenv("TRPO_FAST_ISA", isa)
    original, batch = single(replace(update_case("categorical"), rows=1157, hidden=hidden))
    results = []
    for count in (1, 2, 3, 1):
        threads(count)
        policy = copy.deepcopy(original)
        F = FisherOperator(policy, batch.obs, weights=batch.weights, backend="cpu")
        x = F.solve(random_vector(policy), 3, preconditioner="kfac").x
        info = trpo_update(policy, batch, backend="cpu", cg_iterations=3, preconditioner="kfac")
        results.append(torch.cat([x, flat_params(policy).clone(), info.stats.float()]))
    for other in results[1:]:
        assert torch.equal(results[0], other)


def without_picked_rows(batch):
    """All weights zero where the factors look."""
    weights = torch.ones(len(batch))
    weights[picked_rows(len(batch), 4, weights.device)] = 0.0
    return replace(batch, weights=weights)


FAILING = {
    "no weight": without_picked_rows,
    "huge rows": lambda batch: replace(batch, obs=batch.obs * 1e25),
}


@pytest.mark.parametrize("name", FAILING)
def test_without_usable_factors_the_solution_is_the_plain_one(name):
    policy, batch = single(Case(rows=400, hidden=(16, 8)))
    batch = FAILING[name](batch)
    operator = native(policy, batch)
    g = random_vector(policy, columns=2).T.contiguous()
    found, plain = operator.solve(g, replace(KFAC, fraction=0.25)), operator.solve(g, CgConfig(4))
    assert found.restarts.tolist() == [1, 1] and plain.restarts.tolist() == [0, 0]
    assert torch.equal(found.x, plain.x) and torch.isfinite(found.x).all()
    zero = operator.solve(torch.zeros_like(g), replace(KFAC, fraction=0.25))
    assert zero.restarts.tolist() == [0, 0] and not zero.x.any()


@pytest.mark.parametrize("config", [CgConfig(40, gain_tol=0.05), replace(KFAC, gain_tol=0.1)])
@pytest.mark.parametrize("case", update_cases(), ids=str)
def test_stops_by_gain_where_the_reference_does(case, config):
    policy, batch = single(case)
    config = replace(config, iterations=40)
    g = random_vector(policy, columns=3).T.contiguous()
    ours, theirs, truth = solved(policy, batch, g, config)
    assert ours.iterations.tolist() == theirs.iterations.tolist()
    assert int(ours.iterations.max()) < 40
    no_worse(ours.x, theirs.x, truth.x, SOLUTION, "x")


@pytest.mark.parametrize("options", [{}, {"fvp_rows": 60}, {"chunk_rows": 40}])
@pytest.mark.parametrize("case", update_cases(), ids=str)
def test_update_equals_the_reference(case, options):
    found = {}
    for backend in ("cpu", "reference"):
        policy, batch = single(case)
        options = {**options, "preconditioner": "kfac", "factor_fraction": 0.5}
        info = trpo_update(policy, batch, backend=backend, cg_iterations=3, **options)
        found[backend] = info, flat_params(policy).clone()
    (ours, theta), (theirs, expected) = found["cpu"], found["reference"]
    assert ours.accepted and relative_error(theta, expected) < 1e-3
    for name, value in theirs.as_dict().items():
        if name not in ("reason", "backend", "cg_residual"):
            assert getattr(ours, name) == pytest.approx(value, rel=2e-3, abs=1e-5), name


def test_a_critic_s_net_has_factors_too():
    """A Gaussian of one output, its log_std included."""
    policy, batch = single(replace(weighted("gaussian_one"), rows=500, hidden=(20, 20)))
    g = random_vector(policy)
    ours, theirs, truth = solved(policy, batch, g, KFAC)
    no_worse(ours.x, theirs.x, truth.x, SOLUTION, "x")
    assert ours.restarts == 0
