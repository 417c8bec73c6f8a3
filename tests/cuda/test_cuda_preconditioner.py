"""K-FAC inside the one launch: solves and updates against the reference, bits, barriers, and what
happens where there are no factors or where gains end a solve.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import ON_CUDA, Case, every_shape, few, poison, thinned
from cuda_support import (  # noqa: F401
    DEVICE,
    EMULATED,
    Emulator,
    Trio,
    kernels,
    schedule,
    small_device,
)
from exactness import SOLUTION, STEP, no_worse

from trpo_fast import FisherOperator, flat_params, trpo_update
from trpo_fast.backends.cuda import CudaOperator
from trpo_fast.core import preconditioner
from trpo_fast.core.preconditioner import picked_rows
from trpo_fast.core.problem import REASONS, STATS, CgConfig, UpdateConfig

KFAC = CgConfig(4, preconditioner="kfac", fraction=0.5)
USUAL = Case("gaussian", (64, 64), rows=33, obs_dim=11)
WIDE = Case("gaussian", (128, 128), rows=9, obs_dim=348)
UNEVEN = Case("gaussian_state", (17, 33), "silu", 70, obs_dim=15, weights=True)
SHAPES = [
    USUAL,
    WIDE,
    UNEVEN,
    Case("gaussian", (), rows=7),
    Case("categorical", (17, 96), "relu", 40, obs_dim=3, masks=True),
    Case("bernoulli", (15, 31), "gelu", 66, obs_dim=47),
]
OPTIONS = [
    {"chunk_rows": 8},
    {"fvp_rows": 40},
    {"kl_reduction": "mean"},
    {"damping": 0.001},
    {"precision": "fp16x3"},
    {"precision": "fp16x3", "fvp_rows": 40, "chunk_rows": 16},
]


@pytest.fixture(autouse=True)
def _factors_of_few_rows(monkeypatch):
    monkeypatch.setattr(preconditioner, "FEWEST_ROWS", 1)


def check_solve(t: Trio, config: CgConfig = KFAC, columns: int | None = 2):
    """x, quad and linear gain by the rule; every count is the reference's."""
    g = t.vector(columns)
    ours = t.kernels.solve(g.to(DEVICE), config)
    theirs, truth = t.single.solve(g, config), t.exact.solve(g.double(), config)
    for name in ("x", "quad", "linear_gain"):
        found = (getattr(result, name) for result in (ours, theirs, truth))
        no_worse(*found, SOLUTION, name)
    assert ours.iterations.tolist() == theirs.iterations.tolist()
    assert ours.restarts.tolist() == theirs.restarts.tolist()
    assert ours.factor_rows == truth.factor_rows
    return ours


@pytest.mark.parametrize(
    "case", [*few(ON_CUDA), *SHAPES, *thinned(every_shape(ON_CUDA), 7)], ids=str
)
def test_solution_equals_the_reference_s(case):
    check_solve(Trio(case, grid=3))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("case", [replace(UNEVEN, rows=90), Case("categorical", rows=90)], ids=str)
def test_options(case, options):
    assert not check_solve(Trio(case, grid=2, **options)).restarts.any()


@pytest.mark.parametrize("options", [{}, {"chunk_rows": 16}, {"precision": "fp16x3"}], ids=str)
@pytest.mark.parametrize("fraction", [1.0, 1 / 4, 1 / 50])
def test_rows_beyond_the_chip(options, fraction):
    with small_device(multiprocessors=2, shared_kib=64):
        t = Trio(Case("gaussian", (33, 17), "silu", 300, obs_dim=11, weights=True), **options)
        plan = t.kernels.plan()
        assert plan["resident_tiles"] * 2 < plan["tiles"]
        check_solve(t, replace(KFAC, fraction=fraction))


def test_streamed_weights():
    with small_device(multiprocessors=2, shared_kib=100):
        t = Trio(Case("gaussian", (96, 96), rows=40, obs_dim=100))
        assert t.kernels.plan()["path"] == "streamed"
        check_solve(t)


def test_rows_of_a_round_are_bounded_by_chunks():
    """More picked rows than are kept at a time where memory is bounded."""
    t = Trio(Case("gaussian", (7,), rows=2300, obs_dim=3, weights=True), chunk_rows=64, grid=4)
    check_solve(t, replace(KFAC, fraction=1.0))
    fewer = Trio(Case("gaussian", (7,), rows=1100, obs_dim=3), chunk_rows=64)
    native = [trio.kernels._op for trio in (t, fewer)]
    extra = [op.scratch_bytes(factor_stride=1) - op.scratch_bytes(factor_stride=0) for op in native]
    assert extra[0] == extra[1] > 0


def test_rows_of_weight_zero_are_not_read():
    t = Trio(Case("multicategorical", rows=66, weights=True, masks=True))
    g = t.vector().to(DEVICE)
    padded = CudaOperator(replace(t.kernels.problem, batch=poison(t.batch)))
    found = padded.solve(g, KFAC)
    assert torch.equal(found.x, t.kernels.solve(g, KFAC).x) and found.restarts == 0


SCHEDULED = [(USUAL, {"precision": "fp16x3"}), (UNEVEN, {"chunk_rows": 16}), (UNEVEN, {})]


@pytest.mark.parametrize(("case", "options"), SCHEDULED, ids=str)
def test_equal_bits_whatever_the_schedule(case, options):
    t = Trio(case, grid=3, **options)
    g = t.vector(2).to(DEVICE)
    first = t.kernels.solve(g, KFAC)
    for order, seed, preempt in [(0, 1, 0.0), (2, 3, 0.2)]:
        schedule(order, seed, preempt)
        again = t.kernels.solve(g, KFAC)
        assert torch.equal(first.x, again.x) and torch.equal(first.quad, again.quad)
    assert torch.equal(t.kernels.solve(g[1], KFAC).x, first.x[1])


@pytest.mark.parametrize("precision", ["fp32", "fp16x3"])
def test_atomics_give_the_same_solution(precision):
    check_solve(Trio(UNEVEN, grid=3, atomics=True, precision=precision))


@pytest.mark.parametrize(("atomics", "per_product"), [(False, 3), (True, 2)])
def test_grid_barriers(atomics, per_product):
    """One more a product than plain CG; what the factors take does not grow with the rows."""
    if not EMULATED:
        pytest.skip("the emulator counts barriers, a device does not")
    counts = {}
    for rows in (33, 400):
        t = Trio(replace(USUAL, rows=rows), atomics=atomics, grid=3)
        g = t.vector().to(DEVICE)
        for iterations in (2, 5):
            Emulator().grid_barriers()
            t.kernels.solve(g, replace(KFAC, iterations=iterations))
            counts[rows, iterations] = Emulator().grid_barriers()
    assert counts[33, 5] - counts[33, 2] == 3 * per_product
    assert counts[33, 5] == counts[400, 5]


def without_picked_rows(batch):
    """All weights zero where the factors look."""
    weights = torch.ones(len(batch), device=batch.obs.device)
    weights[picked_rows(len(batch), 2, weights.device)] = 0.0
    return replace(batch, weights=weights)


FAILING = {
    "no weight": without_picked_rows,
    "huge rows": lambda batch: replace(batch, obs=batch.obs * 1e25),
}


@pytest.mark.parametrize("precision", ["fp32", "fp16x3"])
@pytest.mark.parametrize("name", FAILING)
def test_without_usable_factors_the_solution_is_the_plain_one(name, precision):
    t = Trio(Case("gaussian", (16, 8), rows=80), precision=precision)
    operator = CudaOperator(replace(t.kernels.problem, batch=FAILING[name](t.batch)))
    g = t.vector(2).to(DEVICE)
    found, plain = operator.solve(g, KFAC), operator.solve(g, CgConfig(4))
    assert found.restarts.tolist() == [1, 1] and plain.restarts.tolist() == [0, 0]
    assert torch.equal(found.x, plain.x) and torch.isfinite(found.x).all()
    zero = operator.solve(torch.zeros_like(g), KFAC)
    assert zero.restarts.tolist() == [0, 0] and not zero.x.any()


@pytest.mark.parametrize("config", [CgConfig(40, gain_tol=0.05), replace(KFAC, gain_tol=0.1)])
@pytest.mark.parametrize("case", [USUAL, *few(ON_CUDA)], ids=str)
def test_stops_by_gain_where_the_reference_does(case, config):
    found = check_solve(Trio(case), replace(config, iterations=40), columns=3)
    assert int(found.iterations.max()) < 40


def check_update(t: Trio, config: UpdateConfig) -> None:
    """Decisions, statistics within the reference's own rounding, and parameters by the rule."""
    got, single, exact = (
        dict(zip(STATS, o.update(config).tolist(), strict=True))
        for o in (t.kernels, t.single, t.exact)
    )
    assert REASONS[int(got["reason"])] == "accepted" and got["factor_rows"] > 0
    for name in ("reason", "backtracks", "cg_iterations", "factor_rows", "restarts"):
        assert got[name] == exact[name], name
    for name in STATS:
        slack = 3 * abs(single[name] - exact[name]) + 1e-4 * abs(exact[name]) + 2e-5
        assert abs(got[name] - exact[name]) <= slack, name
    no_worse(*(o.problem.theta for o in (t.kernels, t.single, t.exact)), STEP, "parameters")


@pytest.mark.parametrize(
    "case",
    [*few(ON_CUDA), USUAL, WIDE, Case("gaussian", (17, 5), "silu", 64, group_size=4)],
    ids=str,
)
def test_update_equals_the_reference_s(case):
    check_update(Trio(case), UpdateConfig(cg=replace(KFAC, iterations=3)))


@pytest.mark.parametrize(
    "options", [*OPTIONS, {"kl_direction": "reverse"}, {"damping": 0.0}], ids=str
)
def test_update_with_options(options):
    cg = replace(KFAC, iterations=2, gain_tol=0.01)
    case = Case("gaussian", (8, 5), rows=129, weights=True)
    check_update(Trio(case, grid=3, **options), UpdateConfig(cg=cg))


def test_an_update_without_factors_is_the_plain_one():
    found = []
    for cg in (KFAC, CgConfig(4)):
        t = Trio(Case("gaussian", (16, 8), rows=80))
        operator = CudaOperator(replace(t.kernels.problem, batch=without_picked_rows(t.batch)))
        stats = dict(zip(STATS, operator.update(UpdateConfig(cg=cg)).tolist(), strict=True))
        found.append((operator.problem.theta.clone(), stats))
    (theta, stats), (plain, expected) = found
    assert torch.equal(theta, plain) and stats["restarts"] == 1
    for name in set(STATS) - {"restarts", "factor_rows"}:
        assert stats[name] == expected[name], name


def test_rows_with_nan_are_reported_and_change_nothing():
    t = Trio(Case("gaussian", (8, 5), rows=33))
    obs = t.batch.obs.clone()
    obs[2] = float("nan")
    before = flat_params(t.policy).clone()
    options = {"backend": "cuda", "sync": False, "preconditioner": "kfac"}
    info = trpo_update(t.policy, replace(t.batch, obs=obs), **options)
    assert info.reason == "bad_values" and torch.equal(flat_params(t.policy), before)


def test_users_ask_by_name():
    t = Trio(replace(USUAL, rows=64))
    F = FisherOperator(t.policy, t.batch.obs, backend="cuda", damping=0.1)
    found = F.solve(t.vector().to(DEVICE), 3, preconditioner="kfac", factor_fraction=0.25)
    assert found.factor_rows == 16 and found.restarts == 0 and found.iterations == 3
    info = trpo_update(t.policy, t.batch, backend="cuda", cg_iterations=3, preconditioner="kfac")
    assert info.accepted and info.backend == "cuda" and info.factor_rows == 16


@pytest.mark.parametrize("chunk_rows", [None, 64])
def test_blocks_beyond_the_tiles_share_the_rows(chunk_rows):
    """More than twice as many blocks as tiles, of which there is one a factor."""
    case = Case("gaussian", (8,), rows=700, obs_dim=3, weights=True)
    with small_device(multiprocessors=16):
        t = Trio(case, chunk_rows=chunk_rows)
        assert t.kernels.plan()["grid"] >= 2 * 4
        check_solve(t, replace(KFAC, fraction=1.0))
