"""precondition: K-FAC's factors, their inverses, and what conjugate gradient does with them."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from cases import HEADS, Case, every_shape, few, poison, random_vector, thinned
from exactness import relative_error
from preconditioner_cases import operator
from torch import nn

from trpo_fast import FisherOperator, MLPPolicy, flat_params, trpo_update
from trpo_fast.core.preconditioner import factor_stride, mixed, picked_rows, signs
from trpo_fast.core.problem import CgConfig

EXACT = 1e-10  # float64 against float64 by another route


def every_direction(width, rows):
    """Unit vectors [width, rows, width]."""
    eye = torch.eye(width, dtype=torch.float64)
    return eye.unsqueeze(1).expand(width, rows, width)


@pytest.mark.parametrize("head", HEADS)
def test_the_root_of_a_metric_squares_to_it(head):
    head = HEADS[head]()
    params = torch.randn(9, head.parameters_per_row, dtype=torch.float64)
    if head.nvec:
        params[2, 0] = -1e30  # masked
    directions = every_direction(params.shape[-1], len(params))
    metric = torch.stack([head.metric(params, v) for v in directions], -1)
    root = torch.stack([head.metric_root(params, v) for v in directions], -1)
    assert relative_error(root @ root.mT, metric) < EXACT


def test_signs_are_even_independent_and_the_same_everywhere():
    found = signs(torch.arange(4096), 40, torch.float64)
    assert found.abs().eq(1).all()
    assert found.mean(0).abs().max() < 5 / math.sqrt(4096)
    moments = found.T @ found / 4096 - torch.eye(40, dtype=torch.float64)
    assert moments.abs().max() < 5 / math.sqrt(4096)
    part = signs(torch.tensor([7, 4000]), 40, torch.float64)
    assert torch.equal(part, found[[7, 4000]])
    # The kernels have the same hash: these are its values.
    numbers = torch.tensor([0, 1, 2, 2**32 + 2])
    assert mixed(numbers).tolist() == [0, 1753845952, 3507691905, 3507691905]


@pytest.mark.parametrize(("rows", "stride"), [(1, 1), (1, 4), (7, 4), (64, 4), (1000, 16)])
def test_one_row_of_every_stride_is_picked(rows, stride):
    picked = picked_rows(rows, stride, torch.device("cpu"))
    runs = torch.arange(-(-rows // stride))
    assert torch.equal(picked // stride, runs)
    assert int(picked.min()) >= 0 and int(picked.max()) < rows
    if rows == 1000:  # at many places of a run
        assert len(set((picked % stride).tolist())) > 12


def test_few_rows_all_go_into_the_factors():
    assert [factor_stride(n, 0.25) for n in (1, 256, 511, 512, 1024, 10**6)] == [1, 1, 1, 2, 4, 4]
    assert factor_stride(10**6, 1.0) == 1 and factor_stride(10**6, 1 / 16) == 16


def dense_factors(case, policy):
    """A and G of every map from autograd's gradients of single rows, in the order of the layers."""
    batch = case.batch(policy)
    obs = batch.obs.double()
    weights = torch.ones(len(obs), dtype=torch.float64) if batch.weights is None else batch.weights
    layers = [m for m in policy.net if isinstance(m, nn.Linear)]
    with torch.no_grad():
        params = policy.distribution_params(obs, batch.action_mask)
        xi = signs(torch.arange(len(obs)), params.shape[-1], torch.float64)
        wanted = policy.head.metric_root(params, xi)
    found = [[0.0, 0.0] for _ in layers]
    for n in range(len(obs)):
        through, h = [], obs[n]
        for module in policy.net:
            if isinstance(module, nn.Linear):
                through.append((h, module(h)))
                h = through[-1][1]
            else:
                h = module(h)
        mask = None if batch.action_mask is None else batch.action_mask[n]
        row = policy.head.distribution_params(h, mask=mask)
        deltas = torch.autograd.grad(row, [out for _, out in through], wanted[n])
        for i, ((given, _), delta) in enumerate(zip(through, deltas, strict=True)):
            h = torch.cat([given.detach(), torch.ones(1, dtype=torch.float64)])
            share = weights[n] / weights.sum()
            found[i][0] += share * torch.outer(h, h)
            found[i][1] += share * torch.outer(delta, delta)
    return found


def dense_inverse(policy, pairs, damping, kl_scale=1.0):
    """M^-1 [P, P] from the factors, by the formulas of the module's docstring."""
    size = policy.spec.size
    inverse = torch.zeros(size, size, dtype=torch.float64)
    offset = 0
    for a, g in pairs:
        g = kl_scale * g
        mean_a, mean_g = a.diagonal().mean(), g.diagonal().mean()
        s, pi = (
            math.sqrt(max(damping, 1e-4 * mean_a * mean_g)) / 2,
            (mean_a / mean_g).sqrt().clamp(1e-4, 1e4),
        )
        a = a + pi * s * torch.eye(len(a), dtype=torch.float64)
        g = g + s / pi * torch.eye(len(g), dtype=torch.float64)
        whole = torch.linalg.inv(torch.kron(g, a))  # of (W, b) row by row
        rows, columns = len(g), len(a)
        place = torch.arange(rows * columns).view(rows, columns)
        order = torch.cat([place[:, :-1].flatten(), place[:, -1]])  # W, then b
        end = offset + rows * columns
        inverse[offset:end, offset:end] = whole[order][:, order]
        offset = end
    for i in range(offset, size):
        inverse[i, i] = 1 / (2 * kl_scale + damping)
    return inverse


def pcg(matrix, inverse, g, iterations):
    """The textbook's, on dense matrices."""
    x, r = torch.zeros_like(g), g.clone()
    p = z = inverse @ r
    for _ in range(iterations):
        ap = matrix @ p
        alpha = (r @ z) / (p @ ap)
        x, new = x + alpha * p, r - alpha * ap
        z_new = inverse @ new
        p = z_new + (new @ z_new) / (r @ z) * p
        r, z = new, z_new
    return x


@pytest.mark.parametrize("case", thinned(every_shape(), 7), ids=str)
def test_a_solve_equals_dense_preconditioned_cg(case):
    policy = case.policy()
    F = operator(case, policy, damping=0.2)
    g = random_vector(policy)
    inverse = dense_inverse(policy, dense_factors(case, policy), 0.2)
    for iterations in (1, 3):
        found = F.solve(g, iterations, preconditioner="kfac")
        assert relative_error(found.x, pcg(F.dense(), inverse, g, iterations)) < 1e-8
        assert int(found.restarts) == 0 and found.scaled_blocks == 0
        assert found.factor_rows == case.rows


@pytest.mark.parametrize("case", few(), ids=str)
def test_it_changes_how_many_products_not_what_is_solved(case):
    F = operator(case)
    g = random_vector(case.policy(), columns=3)
    found = F.solve(g, iterations=300, tol=1e-12, preconditioner="kfac")
    assert relative_error(found.x, torch.linalg.solve(F.dense(), g)) < 1e-8
    assert torch.allclose(found.quad, (g * found.x).sum(0))
    assert torch.allclose(found.linear_gain, (g * found.x).sum(0))


def test_fewer_products_to_the_same_residual():
    case = Case("gaussian", (32, 32), rows=512, obs_dim=11)
    policy = case.policy()
    F = operator(case, policy, damping=0.01)
    scores = random_vector(policy)
    g = F @ scores  # in the range of F, as a gradient is
    plain = F.solve(g, iterations=200, tol=1e-3)
    kfac = F.solve(g, iterations=200, tol=1e-3, preconditioner="kfac")
    assert int(kfac.iterations) < int(plain.iterations)


@pytest.mark.parametrize("head", ["gaussian", "categorical"])
def test_chunks_rows_and_padding(head):
    case = Case(head, (8, 5), rows=129, weights=True, masks=head == "categorical")
    policy = case.policy()
    batch = case.batch(policy)
    g = random_vector(policy)
    whole = operator(case, policy).solve(g, 3, preconditioner="kfac")
    chunked = operator(case, policy, chunk_rows=20).solve(g, 3, preconditioner="kfac")
    assert relative_error(chunked.x, whole.x) < EXACT
    dirty = poison(batch)
    F = FisherOperator(
        policy, dirty.obs, weights=dirty.weights, action_mask=dirty.action_mask, backend="reference"
    )
    assert torch.equal(F.solve(g, 3, preconditioner="kfac").x, whole.x)
    index = torch.arange(0, 129, 2)
    some = operator(case, policy, fvp_rows=index)
    rows = {"weights": batch.weights[index]}
    if batch.action_mask is not None:
        rows["action_mask"] = batch.action_mask[index]
    alone = FisherOperator(policy, batch.obs[index], backend="reference", **rows)
    # The same rows with other numbers have other signs, so that only the last x is the same.
    found, other = (f.solve(g, 200, 1e-13, preconditioner="kfac") for f in (some, alone))
    assert found.factor_rows == other.factor_rows == len(index)
    assert relative_error(found.x, other.x) < 1e-9


def test_a_mean_over_action_dimensions_scales_the_factors():
    case = Case("gaussian", (8,))
    policy = case.policy()
    F = operator(case, policy, kl_reduction="mean", damping=0.3)
    g = random_vector(policy)
    inverse = dense_inverse(policy, dense_factors(case, policy), 0.3, 1 / 3)
    found = F.solve(g, 2, preconditioner="kfac")
    assert relative_error(found.x, pcg(F.dense(), inverse, g, 2)) < 1e-8


@pytest.mark.parametrize("precondition", [None, "kfac"])
def test_the_gain_rule_stops_after_two_small_gains(precondition):
    case = Case("gaussian", (8, 5), rows=129)
    policy = case.policy()
    F, g = operator(case, policy), random_vector(policy)
    quads = [0.0] + [float(F.solve(g, k, preconditioner=precondition).quad) for k in range(1, 30)]
    shares = [(b - a) / b for a, b in pairwise(quads)]
    for gain_tol in (0.3, 0.05, 0.01):
        small = [share <= gain_tol for share in shares]
        expected = next(k + 2 for k in range(28) if small[k] and small[k + 1])
        found = F.solve(g, 29, gain_tol=gain_tol, preconditioner=precondition)
        assert int(found.iterations) == expected
        assert float(found.quad) == pytest.approx(quads[expected], rel=1e-9)
    many = F.solve(torch.stack([g, F @ g], 1), 29, gain_tol=0.05, preconditioner=precondition)
    alone = [
        F.solve(v, 29, gain_tol=0.05, preconditioner=precondition).iterations for v in (g, F @ g)
    ]
    assert many.iterations.tolist() == [int(k) for k in alone]


def test_the_empirical_fisher_has_factors_of_its_own():
    case = Case("gaussian", (8,), rows=400)
    policy = case.policy()
    batch = case.batch(policy)
    F = FisherOperator(
        policy, batch.obs, fisher="empirical", actions=batch.actions, backend="reference"
    )
    g = F @ random_vector(policy)
    found = F.solve(g, 200, 1e-12, preconditioner="kfac")
    assert relative_error(found.x, torch.linalg.solve(F.dense(), g)) < 1e-7
    assert int(found.restarts) == 0


@pytest.mark.parametrize("case", few(), ids=str)
def test_an_update_with_it_is_accepted_and_says_so(case):
    policy = case.policy()
    batch = case.batch(policy)
    before = flat_params(policy).clone()
    info = trpo_update(
        policy, batch, cg_iterations=3, preconditioner="kfac", backend="reference", damping=0.1
    )
    assert info.accepted and info.factor_rows == case.rows and info.restarts == 0
    assert info.linear_gain == pytest.approx(info.quad, rel=1e-6)
    assert not torch.equal(flat_params(policy), before)


def test_float32_and_float64_agree():
    case = Case("gaussian", (33, 17), rows=257, dtype=torch.float32)
    policy = case.policy()
    double = MLPPolicy(5, HEADS["gaussian"](), (33, 17)).double()
    flat_params(double).copy_(flat_params(policy).double())
    obs, g = case.batch(policy).obs, random_vector(policy)
    single = FisherOperator(policy, obs, backend="reference")._operator
    exact = FisherOperator(double, obs.double(), backend="reference")._operator
    config = CgConfig(3, preconditioner="kfac")
    assert relative_error(single.solve(g, config).x, exact.solve(g.double(), config).x) < 1e-4
    assert replace(config, fraction=0.5).fraction == 0.5
