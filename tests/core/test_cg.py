"""cg: plain conjugate gradient from zero, its early stops, and x'Ax without an extra product."""

from __future__ import annotations

import pytest
import torch
from cases import Case, few, random_vector
from exactness import relative_error

from trpo_fast import FisherOperator
from trpo_fast.core.cg import cg


def spd(n, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return (a @ a.T / n + 0.1 * torch.eye(n, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("iterations", [1, 2, 3, 5, 8, 13])
def test_iterates_equal_scipy(iterations):
    linalg = pytest.importorskip("scipy.sparse.linalg")
    A, g = spd(40), torch.randn(40, dtype=torch.float64)
    ours = cg(lambda v: v @ A, g, iterations, 0.0)
    theirs, _ = linalg.cg(A.numpy(), g.numpy(), rtol=0.0, maxiter=iterations)
    assert relative_error(ours.x, torch.from_numpy(theirs)) < 1e-12
    assert int(ours.iterations) == iterations


@pytest.mark.parametrize("case", few(), ids=str)
def test_solves_the_dense_system(case):
    policy = case.policy()
    batch = case.batch(policy)
    F = FisherOperator(policy, batch.obs, weights=batch.weights, action_mask=batch.action_mask)
    g = random_vector(policy, columns=2)
    found = F.solve(g, iterations=300, tol=1e-13)
    assert relative_error(found.x, torch.linalg.solve(F.dense(), g)) < 1e-9
    assert (found.iterations < 300).all()


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_quad_equals_the_explicit_product(iterations):
    policy = Case().policy()
    F = FisherOperator(policy, Case().batch(policy).obs)
    found = F.solve(random_vector(policy), iterations)
    assert float(found.quad) == pytest.approx(float(found.x @ (F @ found.x)), rel=1e-10)


def test_columns_stop_on_their_own():
    A = torch.diag(torch.arange(1.0, 31.0, dtype=torch.float64))
    zero = torch.zeros(30, dtype=torch.float64)
    g = torch.stack([zero, A[2] / 3, torch.ones_like(zero)])
    found = cg(lambda v: v @ A, g, 10, 0.0)
    assert found.iterations.tolist() == [0, 1, 10]
    for row in range(3):
        alone = cg(lambda v: v @ A, g[row], 10, 0.0)
        assert relative_error(found.x[row], alone.x) < 1e-14


def test_converged_at_the_start_and_at_tolerance():
    A, g = spd(20), torch.randn(20, dtype=torch.float64)
    assert int(cg(lambda v: v @ A, torch.zeros_like(g), 5, 0.0).iterations) == 0
    loose = cg(lambda v: v @ A, g, 100, 1e-2)
    assert float(loose.residual_norm) <= 1e-2 * float(g.norm())
    assert 0 < int(loose.iterations) < 20


def test_negative_curvature_first_and_later():
    A = torch.diag(torch.tensor([1.0, -2.0], dtype=torch.float64))
    first = cg(lambda v: v @ A, torch.tensor([0.1, 1.0], dtype=torch.float64), 5, 0.0)
    assert float(first.first_curvature) < 0 and first.x.abs().max() == 0
    later = cg(lambda v: v @ A, torch.tensor([1.0, 0.5], dtype=torch.float64), 5, 0.0)
    assert int(later.iterations) == 1 and torch.isfinite(later.x).all()


def test_nan_product_stops_without_spreading():
    g = torch.ones(3, dtype=torch.float64)
    found = cg(lambda v: v * float("nan"), g, 5, 0.0)
    assert not torch.isfinite(found.first_curvature) and found.x.abs().max() == 0


def test_inputs_are_not_written():
    A, g = spd(10), torch.randn(10, dtype=torch.float64)
    kept = g.clone()
    cg(lambda v: v @ A, g, 4, 0.0)
    aliased = cg(lambda v: v.mul_(1.0) @ A, g, 4, 0.0)
    assert torch.equal(g, kept)
    assert torch.equal(aliased.x, cg(lambda v: v @ A, g, 4, 0.0).x)
