"""The CUDA kernels' products and gradients against the float64 reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import ON_CUDA, Case, every_shape, few, poison, thinned, weighted
from cuda_support import (  # noqa: F401
    DEVICE,
    EMULATED,
    Trio,
    kernels,
    schedule,
    small_device,
)
from exactness import no_worse

from trpo_fast import FisherOperator, Gaussian, MLPPolicy
from trpo_fast.backends.cuda import CudaOperator

USUAL = Case("gaussian", (64, 64), "relu", 33, obs_dim=11)
WIDE = Case("gaussian", (128, 128), rows=17, obs_dim=348)  # its weights are read from memory
UNEVEN = [
    Case("gaussian", (128, 128, 17), "silu", 20, obs_dim=3),
    Case("gaussian", (17,), rows=7, obs_dim=348),
]
CASES = [
    Case("gaussian", (5,), rows=1, obs_dim=1),
    USUAL,
    Case("gaussian", (96,), "elu", 7, obs_dim=17),
    Case("gaussian", (17, 128), "gelu", 33, obs_dim=11),
    *UNEVEN,
    WIDE,
    Case("gaussian", (128, 128, 128, 128), "identity", 5),
]


@pytest.mark.parametrize("case", every_shape(ON_CUDA) + CASES, ids=str)
def test_fvp_equals_float64(case):
    t = Trio(case)
    v = t.vector(2)
    no_worse(t.kernels.fvp(v.to(DEVICE)), t.single.fvp(v), t.exact.fvp(v.double()))


@pytest.mark.parametrize("case", thinned(every_shape(ON_CUDA), 3, begin=1) + CASES, ids=str)
def test_gradient_equals_float64(case):
    t = Trio(case)
    (g, now), (g32, _), (g64, exact) = (o.gradient() for o in (t.kernels, t.single, t.exact))
    no_worse(g, g32, g64)
    for name in ("surrogate", "entropy"):
        assert float(getattr(now, name)) == pytest.approx(float(getattr(exact, name)), abs=2e-5)


@pytest.mark.parametrize("case", [*few(ON_CUDA), *UNEVEN, WIDE], ids=str)
def test_seventeen_actions_and_grids_beyond_the_tiles(case):
    t = Trio(case, grid=4)
    v = t.vector()
    no_worse(t.kernels.fvp(v.to(DEVICE)), t.single.fvp(v), t.exact.fvp(v.double()))


@pytest.mark.parametrize("actions", [1, 17])
def test_widest_tile(actions):
    policy = MLPPolicy(obs_dim=11, head=Gaussian(actions), hidden=(64, 64))
    obs = torch.randn(300, 11, generator=torch.Generator().manual_seed(0))
    v = torch.randn(policy.spec.size, generator=torch.Generator().manual_seed(1))
    single = FisherOperator(policy, obs, backend="reference") @ v
    exact = FisherOperator(policy.double(), obs.double(), backend="reference") @ v.double()
    F = FisherOperator(policy.float().to(DEVICE), obs.to(DEVICE), backend="cuda")
    no_worse(F @ v.to(DEVICE), single, exact)


@pytest.mark.parametrize("case", few(ON_CUDA), ids=str)
def test_zero_weight_rows_may_hold_anything(case):
    t, clean = Trio(case), Trio(case)
    t.kernels = CudaOperator(replace(t.kernels.problem, batch=poison(t.batch)))
    v = t.vector().to(DEVICE)
    assert torch.equal(t.kernels.fvp(v), clean.kernels.fvp(v))
    assert torch.equal(t.kernels.gradient()[0], clean.kernels.gradient()[0])
    assert not t.kernels.bad_values()


@pytest.mark.parametrize(
    "options", [{"fvp_rows": 20}, {"chunk_rows": 16}, {"kl_reduction": "mean"}]
)
def test_options_of_the_product(options):
    with small_device(multiprocessors=2, shared_kib=40):
        t = Trio(Case("gaussian", (17, 5), rows=129, weights=True), **options)
        v = t.vector()
        no_worse(t.kernels.fvp(v), t.single.fvp(v), t.exact.fvp(v.double()))


@pytest.mark.parametrize("head", ["gaussian", "categorical"])
def test_rows_that_do_not_fit_on_chip(head):
    case = Case(head, (33, 17), "silu", 200, obs_dim=11, weights=True)
    roomy = Trio(case, grid=2)
    with small_device(multiprocessors=2, shared_kib=60):
        tight, again = Trio(case, grid=2), Trio(case, grid=2, chunk_rows=16)
        plans = [t.kernels.plan() for t in (roomy, tight, again)]
        v = roomy.vector()
        products = [t.kernels.fvp(v) for t in (tight, again)]
    assert [plan["cached"] for plan in plans] == [False, True, False]
    assert all(plan["resident_tiles"] * 2 < plan["tiles"] for plan in plans[1:])
    assert torch.equal(*products)
    no_worse(products[0], roomy.single.fvp(v), roomy.exact.fvp(v.double()))


@pytest.mark.parametrize("case", [USUAL, WIDE, weighted("squashed")], ids=str)
def test_equal_bits_whatever_the_schedule(case):
    t = Trio(case, grid=3)
    v = t.vector(2).to(DEVICE)
    found = []
    for order, seed, preempt in [(0, 1, 0.0), (1, 1, 0.0), (2, 1, 0.1), (2, 7, 0.5)]:
        schedule(order, seed, preempt)
        found.append((t.kernels.fvp(v), t.kernels.gradient()[0]))
    for product, gradient in found[1:]:
        assert torch.equal(product, found[0][0]) and torch.equal(gradient, found[0][1])


@pytest.mark.parametrize("chunk_rows", [None, 4096])
def test_rows_by_the_hundred_thousand(chunk_rows):
    rows, obs_dim, hidden = (2 * 10**5, 1, (4,)) if EMULATED else (10**6, 11, (64, 64))
    policy = MLPPolicy(obs_dim, Gaussian(1), hidden).to(DEVICE)
    obs = torch.randn(rows, obs_dim, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    v = torch.randn(policy.spec.size, device=DEVICE)
    options = {"chunk_rows": chunk_rows, "sync": False}
    found = FisherOperator(policy, obs, backend="cuda", **options) @ v
    single = FisherOperator(policy, obs, backend="reference", sync=False) @ v
    exact = FisherOperator(policy.double(), obs.double(), backend="reference") @ v.double()
    no_worse(found, single, exact)


def test_zero_vector_and_columns():
    t = Trio(Case("gaussian", (64, 64), rows=33))
    v = t.vector(3).to(DEVICE)
    v[1] = 0
    together = t.kernels.fvp(v)
    assert torch.equal(together[1], v[1])
    assert all(torch.equal(together[i], t.kernels.fvp(v[i])) for i in range(3))
