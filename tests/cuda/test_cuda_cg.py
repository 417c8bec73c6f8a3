"""Conjugate gradient inside one launch: the reference's answers, its early stops, few barriers."""

from __future__ import annotations

import pytest
import torch
from cases import ON_CUDA, Case, few
from cuda_support import (  # noqa: F401
    DEVICE,
    EMULATED,
    Emulator,
    Trio,
    kernels,
    schedule,
    small_device,
)
from exactness import SOLUTION, no_worse

from trpo_fast import FisherOperator, trpo_update
from trpo_fast.core.problem import CgConfig

USUAL = Case("gaussian", (64, 64), rows=33, obs_dim=11)
WIDE = [
    USUAL,
    Case("gaussian", (), rows=7),
    Case("categorical", (17, 96), "relu", 40, obs_dim=3),
    Case("gaussian", (128, 128), rows=9, obs_dim=348),
]


@pytest.mark.parametrize("iterations", [1, 6])
@pytest.mark.parametrize("case", few(ON_CUDA) + WIDE, ids=str)
def test_solution_equals_float64(case, iterations):
    t = Trio(case)
    g = t.single.gradient()[0]
    solved = t.kernels.solve(g.to(DEVICE), CgConfig(iterations))
    exact = t.exact.solve(g.double(), CgConfig(iterations))
    no_worse(solved.x, t.single.solve(g, CgConfig(iterations)).x, exact.x, SOLUTION)
    assert float(solved.quad) == pytest.approx(float(exact.quad), rel=1e-4)
    assert int(solved.iterations) == int(exact.iterations)


def test_quad_is_the_explicit_product():
    t = Trio(USUAL)
    g = t.single.gradient()[0].to(DEVICE)
    found = t.kernels.solve(g, CgConfig(5))
    explicit = (found.x.double() * t.kernels.fvp(found.x).double()).sum()
    assert float(found.quad) == pytest.approx(float(explicit), rel=1e-5)
    residual = (g - t.kernels.fvp(found.x)).norm()
    assert float(found.residual_norm) == pytest.approx(float(residual), rel=1e-3)


def test_columns_stop_each_by_themselves():
    t = Trio(Case("gaussian", (8, 5), rows=33))
    g = t.vector(3).to(DEVICE)
    g[1] = 0
    together = t.kernels.solve(g, CgConfig(10, 0.05))
    for i in range(3):
        alone = t.kernels.solve(g[i], CgConfig(10, 0.05))
        assert torch.equal(together.x[i], alone.x) and together.quad[i] == alone.quad
        assert together.iterations[i] == alone.iterations
    assert together.iterations[1] == 0 and not together.x[1].any()


@pytest.mark.parametrize("tol", [0.5, 0.01])
def test_stops_when_converged(tol):
    t = Trio(Case("bernoulli", (8, 5), rows=33))
    g = t.single.gradient()[0]
    found = t.kernels.solve(g.to(DEVICE), CgConfig(50, tol))
    assert int(found.iterations) == int(t.exact.solve(g.double(), CgConfig(50, tol)).iterations)
    assert float(found.residual_norm) <= tol * float(g.norm())


@pytest.mark.parametrize(("atomics", "per_iteration"), [(False, 2), (True, 1)])
def test_grid_barriers_per_iteration(atomics, per_iteration):
    if not EMULATED:
        pytest.skip("the emulator counts barriers, a device does not")
    t = Trio(USUAL, atomics=atomics, grid=3)
    g = t.single.gradient()[0]
    counts = []
    for iterations in (2, 7):
        Emulator().grid_barriers()
        assert int(t.kernels.solve(g, CgConfig(iterations)).iterations) == iterations
        counts.append(Emulator().grid_barriers())
    assert counts[1] - counts[0] == 5 * per_iteration


def test_a_user_asks_for_atomics_by_name():
    if not EMULATED:
        pytest.skip("the emulator counts barriers, a device does not")
    t, barriers = Trio(USUAL), {}
    for deterministic in (True, False):
        options = {"deterministic": deterministic, "backend": "cuda"}
        F = FisherOperator(t.policy, t.batch.obs, **options)
        Emulator().grid_barriers()
        F.solve(t.vector(), iterations=5)
        trpo_update(t.policy, t.batch, cg_iterations=5, **options)
        barriers[deterministic] = Emulator().grid_barriers()
    assert barriers[True] - barriers[False] >= 8


@pytest.mark.parametrize("case", WIDE, ids=str)
def test_atomics_give_the_same_solution(case):
    t, fast = Trio(case, grid=3), Trio(case, grid=3, atomics=True)
    g = t.vector(2).to(DEVICE)
    found = fast.kernels.solve(g, CgConfig(6))
    exact = t.exact.solve(g.cpu().double(), CgConfig(6))
    no_worse(found.x, t.single.solve(g.cpu(), CgConfig(6)).x, exact.x, SOLUTION)


@pytest.mark.parametrize("case", WIDE, ids=str)
def test_equal_bits_whatever_the_schedule(case):
    t = Trio(case, grid=4)
    g = t.vector().to(DEVICE)
    first = t.kernels.solve(g, CgConfig(4))
    for order, seed, preempt in [(0, 1, 0.0), (2, 3, 0.2)]:
        schedule(order, seed, preempt)
        again = t.kernels.solve(g, CgConfig(4))
        assert torch.equal(first.x, again.x) and torch.equal(first.quad, again.quad)


def test_rows_beyond_the_chip():
    with small_device(multiprocessors=2, shared_kib=48):
        t = Trio(Case("gaussian", (24, 16), "gelu", 400, weights=True), fvp_rows=300)
        assert t.kernels.plan()["cached"]
        g = t.single.gradient()[0]
        found = t.kernels.solve(g, CgConfig(8))
    single, exact = t.single.solve(g, CgConfig(8)), t.exact.solve(g.double(), CgConfig(8))
    no_worse(found.x, single.x, exact.x, SOLUTION)
