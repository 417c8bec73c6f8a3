"""precision="fp16x3": fp32's errors, decisions and faults from products of 16-bit halves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import ON_CUDA, Case, few, weighted
from cuda_support import (  # noqa: F401
    DEVICE,
    EMULATED,
    Emulator,
    Trio,
    kernels,
    schedule,
    small_device,
    to_device,
)
from exactness import FP16X3, SOLUTION, no_worse

from trpo_fast import FisherOperator, Gaussian, MLPPolicy, trpo_update
from trpo_fast.core.problem import STATS, BackendUnavailable, CgConfig, UpdateConfig
from trpo_fast.policy.flat import flat_params

# Widths around 8, 16 and 32, tiles of 16, 32 and 64 rows.
ODD = Case("gaussian", (17,), "relu", 33, obs_dim=1)
UNEVEN = Case("gaussian_state", (17, 96), "silu", 33, obs_dim=17)
WIDEST = Case("gaussian", (128, 128), "gelu", 33, obs_dim=17)
UPDATED = [
    Case("gaussian", (64, 64), "tanh", 300, obs_dim=11),
    UNEVEN,
    Case("categorical", (128,), "elu", 300, obs_dim=11),
    WIDEST,
]
CASES = [
    Case("gaussian", (), "tanh", 1, obs_dim=1),
    ODD,
    *UPDATED,
    Case("multicategorical", (96, 17), "relu", 33, obs_dim=11),
    Case("bernoulli", (64, 17, 5), "identity", 33, obs_dim=32),
    Case("squashed", (5, 31, 60, 33), "tanh", 33, obs_dim=17),
]


class Pair(Trio):
    """A case in both precisions; ``exact`` is float64's."""

    def __init__(self, case: Case, **options) -> None:
        super().__init__(case, **options)
        self.split = Trio(case, **options, precision="fp16x3").kernels


@pytest.mark.parametrize("case", [*CASES, *few(ON_CUDA)], ids=str)
def test_products_and_gradients_are_as_close_as_in_fp32(case):
    p = Pair(case, grid=2)
    v = p.vector(2)
    no_worse(
        p.split.fvp(v.to(DEVICE)), p.kernels.fvp(v.to(DEVICE)), p.exact.fvp(v.double()), FP16X3
    )
    (g, now), (g32, _), (g64, exact) = (o.gradient() for o in (p.split, p.kernels, p.exact))
    no_worse(g, g32, g64, FP16X3)
    for name in ("surrogate", "entropy"):
        assert float(getattr(now, name)) == pytest.approx(float(getattr(exact, name)), abs=2e-5)


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 1e6, 1e30, 1e35])
def test_size_of_a_direction_does_not_matter(size):
    p = Pair(ODD)
    v = size * p.vector()
    v[: v.numel() // 2] *= 1e-3
    found = p.split.fvp(v.to(DEVICE))
    no_worse(found, p.kernels.fvp(v.to(DEVICE)), p.exact.fvp(v.double()), FP16X3)


def test_long_sums_have_no_bias():
    """Every term of a sum has the same sign, so that cutting off adds up where it is not mended."""
    case = Case("gaussian", (64, 64), "relu", 300, obs_dim=96)
    p = Pair(case, grid=1)
    for parameter in p.policy.parameters():
        parameter.data.abs_()
    obs = p.batch.obs.abs()
    v = p.vector().abs().to(DEVICE)
    found = [
        FisherOperator(p.policy, obs, backend="cuda", precision=precision) @ v
        for precision in ("fp16x3", "fp32")
    ]
    exact = FisherOperator(p.policy.double(), obs.double(), backend="reference") @ v.double()
    no_worse(*found, exact, FP16X3)


@pytest.mark.parametrize("sizes", [(1e-6, 1.0), (1e6, 1e-6)])
def test_size_of_observations_does_not_matter(sizes):
    """Columns of very different size, so that one power of two cannot suit both."""
    case = replace(UNEVEN, activation="tanh")
    p = Pair(case)
    columns = torch.tensor(sizes, device=DEVICE).repeat(case.obs_dim)[: case.obs_dim]
    batch = replace(p.batch, obs=p.batch.obs * columns)
    v = p.vector().to(DEVICE)
    found = [
        FisherOperator(p.policy, batch.obs, backend="cuda", precision=precision) @ v
        for precision in ("fp16x3", "fp32")
    ]
    exact = FisherOperator(p.policy.double(), batch.obs.double(), backend="reference") @ v.double()
    no_worse(*found, exact, FP16X3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 0.0])
def test_faults_of_a_direction_show_as_in_fp32(value):
    p = Pair(Case("gaussian", (8, 5), rows=33))
    v = p.vector().to(DEVICE)
    v[7:8] = value
    both = [o.fvp(v if value else v * 0) for o in (p.split, p.kernels)]
    assert torch.equal(*(found.isfinite() for found in both))
    assert value or not both[0].any()


@pytest.mark.parametrize(
    "change", [{"obs": float("nan")}, {"advantages": 0.0}, {"weights": -1.0}, {"weights": 0.0}]
)
def test_faults_of_a_batch_have_the_same_reason(change):
    case = Case("gaussian", (8, 5), rows=33, weights=True, dtype=torch.float32)
    policy = case.policy().to(DEVICE)
    batch = to_device(case.batch(case.policy()))
    batch = replace(batch, **{k: torch.full_like(getattr(batch, k), v) for k, v in change.items()})
    before = flat_params(policy).clone()
    options = {"backend": "cuda", "sync": False}
    reasons = {
        trpo_update(policy, batch, **options, precision=p).reason for p in ("fp32", "fp16x3")
    }
    assert len(reasons) == 1 and "accepted" not in reasons
    assert torch.equal(flat_params(policy), before)


@pytest.mark.parametrize(
    "case", [*UPDATED, *map(weighted, ("gaussian_state", "categorical", "bernoulli"))], ids=str
)
@pytest.mark.parametrize("max_kl", [0.01, 0.5])
def test_updates_take_the_same_step(case, max_kl):
    p = Pair(case)
    config = UpdateConfig(cg=CgConfig(4), max_kl=max_kl, backtrack_ratio=0.7)
    got, exact = (
        dict(zip(STATS, o.update(config).tolist(), strict=True)) for o in (p.split, p.exact)
    )
    for name in ("reason", "backtracks", "cg_iterations"):
        assert got[name] == exact[name], name
    for name in ("kl", "surrogate_after", "step_size"):
        assert got[name] == pytest.approx(exact[name], rel=1e-4, abs=1e-7), name


@pytest.mark.parametrize(
    "options", [{"fvp_rows": 40}, {"chunk_rows": 16}, {"kl_reduction": "mean"}, {}]
)
def test_options_and_rows_beyond_the_chip(options):
    with small_device(multiprocessors=2, shared_kib=64):
        p = Pair(Case("gaussian", (33, 17), "silu", 200, obs_dim=11, weights=True), **options)
        plan = p.split.plan()
        assert plan["resident_tiles"] * 2 < plan["tiles"] or options == {"fvp_rows": 40}
        assert plan["cached"] or options
        v, g = p.vector(), p.single.gradient()[0]
        no_worse(p.split.fvp(v), p.kernels.fvp(v), p.exact.fvp(v.double()), FP16X3)
        exact = p.exact.solve(g.double(), CgConfig(5)).x
        no_worse(p.split.solve(g, CgConfig(5)).x, p.single.solve(g, CgConfig(5)).x, exact, SOLUTION)


@pytest.mark.parametrize("atomics", [False, True])
def test_equal_bits_columns_and_schedules(atomics):
    t = Trio(UNEVEN, grid=3, precision="fp16x3", atomics=atomics)
    g = t.vector(2).to(DEVICE)
    first = t.kernels.solve(g, CgConfig(3)).x
    exact = t.exact.solve(g.cpu().double(), CgConfig(3)).x
    no_worse(first, t.single.solve(g.cpu(), CgConfig(3)).x, exact, SOLUTION)
    for order, seed, preempt in [(0, 1, 0.0), (2, 3, 0.2)]:
        schedule(order, seed, preempt)
        again = t.kernels.solve(g, CgConfig(3)).x
        assert atomics or torch.equal(first, again)
    assert atomics or torch.equal(t.kernels.solve(g[1], CgConfig(3)).x, first[1])


def test_products_run_on_tensor_cores_and_take_two_grid_barriers():
    if not EMULATED:
        pytest.skip("the emulator counts, a device does not")
    p = Pair(ODD, grid=3)
    counts = {}
    for operator in (p.kernels, p.split):
        for iterations in (1, 4):
            Emulator().counters()
            operator.solve(p.vector(), CgConfig(iterations))
            counts[operator, iterations] = Emulator().counters()
    grid_barriers, mmas = 4, 6
    for operator in (p.kernels, p.split):
        few, many = counts[operator, 1], counts[operator, 4]
        assert many[grid_barriers] - few[grid_barriers] == 6
        assert (many[mmas] > few[mmas] > 0) == (operator is p.split)


@pytest.mark.parametrize(
    ("hidden", "obs", "words"),
    [
        ((128, 128, 128), 11, "at most 24 blocks of 32 x 32"),
        ((128, 96), 348, "at most 24 blocks"),
        ((32,), 700, "do not fit beside one tile"),
    ],
)
def test_refusals_say_what_serves(hidden, obs, words):
    policy = MLPPolicy(obs_dim=obs, head=Gaussian(2), hidden=hidden).to(DEVICE)
    rows = torch.zeros(4, obs, device=DEVICE)
    with pytest.raises(BackendUnavailable, match=f"{words}.*use precision='fp32'"):
        FisherOperator(policy, rows, backend="cuda", precision="fp16x3")
    FisherOperator(policy, rows, backend="cuda")
