"""precondition: one that a user gives, and one that is no use, which conjugate gradient leaves."""

from __future__ import annotations

import math

import pytest
import torch
from cases import Case, random_vector
from exactness import relative_error
from preconditioner_cases import operator

from trpo_fast import FisherOperator, flat_params, trpo_update
from trpo_fast.core.cg import cg
from trpo_fast.core.preconditioner import picked_rows


@pytest.mark.parametrize(
    "broken",
    [lambda r: -r, lambda r: r * math.nan, lambda r: torch.zeros_like(r), lambda r: r / 0.0],
)
def test_what_is_not_positive_and_finite_is_left(broken):
    case = Case()
    policy = case.policy()
    F, g = operator(case, policy), random_vector(policy, columns=2)
    plain, found = F.solve(g, 4), F.solve(g, 4, preconditioner=broken)
    assert torch.equal(found.x, plain.x) and found.restarts.tolist() == [1, 1]
    assert found.iterations.tolist() == [4, 4]
    assert not plain.restarts.any()


def test_one_that_turns_bad_later_is_left_for_its_own_column():
    matrix = torch.diag(torch.arange(1.0, 31.0, dtype=torch.float64))
    g = torch.randn(2, 30, dtype=torch.float64)
    calls = []

    def later(r):
        calls.append(len(calls))
        z = r.clone()
        if len(calls) > 3:
            z[1] = math.nan
        return z

    found = cg(lambda v: v @ matrix, g, 8, 0.0, precondition=later)
    plain = cg(lambda v: v @ matrix, g, 8, 0.0)
    assert found.restarts.tolist() == [0, 1] and found.iterations.tolist() == [8, 8]
    assert relative_error(found.x, plain.x) < 1e-12


def test_rows_without_weight_leave_no_factors():
    case = Case("gaussian", rows=1024)
    policy = case.policy()
    obs = case.batch(policy).obs
    weights = torch.ones(1024, dtype=torch.float64)
    weights[picked_rows(1024, 4, torch.device("cpu"))] = 0.0
    F = FisherOperator(policy, obs, weights=weights, backend="reference")
    g = random_vector(policy)
    found = F.solve(g, 5, preconditioner="kfac")
    assert torch.equal(found.x, F.solve(g, 5).x) and int(found.restarts) == 1


def test_the_own_preconditioner_of_a_user():
    case = Case()
    policy = case.policy()
    F, g = operator(case, policy), random_vector(policy, columns=2)
    dense = F.dense()
    found = F.solve(g, 1, preconditioner=lambda r: torch.linalg.solve(dense, r))
    assert relative_error(found.x, torch.linalg.solve(dense, g)) < 1e-9
    with pytest.raises(ValueError, match="preconditioner: expected"):
        F.solve(g, 1, preconditioner=lambda r: r[:3])
    twice = F.solve(g[:, 0], 3, preconditioner=lambda r: 2.0 * r)
    written = F.solve(g[:, 0], 3, preconditioner=lambda r: r.mul_(2.0))
    assert torch.equal(written.x, twice.x)
    with pytest.raises(ValueError, match="preconditioner: expected"):
        F.solve(g, 1, preconditioner="jacobi")
    with pytest.raises(ValueError, match="preconditioner: expected"):
        trpo_update(policy, case.batch(policy), preconditioner=lambda r: r[:3])


def test_a_broken_one_never_fails_an_update():
    case = Case()
    plain, broken = case.policy(), case.policy()
    batch = case.batch(plain)
    options = {"backend": "reference", "cg_iterations": 4}
    first = trpo_update(plain, batch, **options)
    second = trpo_update(broken, batch, preconditioner=lambda r: r * math.nan, **options)
    assert second.accepted and second.restarts == 1 and first.restarts == 0
    assert torch.equal(flat_params(plain), flat_params(broken))
