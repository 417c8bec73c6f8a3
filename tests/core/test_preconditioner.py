"""precondition: K-FAC's factors, their inverses, and what conjugate gradient does with them."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from cases import HEADS, Case, every_shape, few, poison, random_vector, thinned
from exactness import relative_error
from torch import nn

from trpo_fast import FisherOperator, MLPPolicy, flat_params, trpo_update
from trpo_fast.core.cg import cg
from trpo_fast.core.preconditioner import factor_stride, mixed, picked_rows, signs
from trpo_fast.core.problem import CgConfig

EXACT = 1e-10  # float64 against float64 by another route


def operator(case, policy=None, **options):
    policy = case.policy() if policy is None else policy
    batch = case.batch(policy)
    return FisherOperator(
        policy,
        batch.obs,
        weights=batch.weights,
        action_mask=batch.action_mask,
        backend="reference",
        **options,
    )


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


class Wrapped(nn.Module):
    """An MLPPolicy that is no longer one to the package."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def forward(self, obs, mask=None):
        return self.policy(obs, mask)


@pytest.mark.parametrize("head", ["gaussian_state", "categorical", "bernoulli"])
def test_a_modules_linear_layers_have_the_factors_of_a_policys(head):
    case = Case(head, weights=True, rows=64)
    policy = case.policy()
    g = random_vector(policy)
    ours = operator(case, policy).solve(g, 3, preconditioner="kfac")
    batch = case.batch(policy)
    module = Wrapped(policy)
    F = FisherOperator(module, batch.obs, weights=batch.weights, backend="reference")
    theirs = F.solve(g, 3, preconditioner="kfac")
    assert theirs.scaled_blocks == 0
    assert relative_error(theirs.x, ours.x) < 1e-9


class Mixed(nn.Module):
    """Convolution, a layer used twice, a layer norm, a linear head."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 3)
        self.twice = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.out = nn.Linear(3, 4, bias=False)

    def forward(self, obs):
        h = self.conv(obs.unsqueeze(1)).mean(-1).tanh()
        h = self.norm(self.twice(self.twice(h).tanh()))
        return torch.distributions.Categorical(logits=self.out(h))


@pytest.mark.parametrize("backend", ["reference", "autograd"])
def test_tensors_without_factors_are_scaled_and_counted(backend):
    torch.manual_seed(0)
    module = Mixed().double()
    obs = torch.randn(300, 8, dtype=torch.float64)
    F = FisherOperator(module, obs, damping=0.1, backend=backend)
    g = torch.randn(flat_params(module).numel(), dtype=torch.float64)
    found = F.solve(g, 200, 1e-12, preconditioner="kfac")
    assert found.scaled_blocks == 6 and int(found.restarts) == 0
    assert relative_error(found.x, torch.linalg.solve(F.dense(), g)) < 1e-8


def test_the_scale_of_a_tensor_without_factors_is_its_mean_curvature():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_std = nn.Parameter(torch.zeros(400, dtype=torch.float64))

        def forward(self, obs):
            mean = obs[:, :1].expand(-1, 400)
            return torch.distributions.Normal(mean, self.log_std.exp())

    module = Scale()
    F = FisherOperator(module, torch.randn(300, 2, dtype=torch.float64), backend="reference")
    factors = F._operator.kfac(1)
    scale = float(factors.inverses.scale[0])
    assert 1 / scale - 0.1 == pytest.approx(2.0, rel=0.3)  # F is 2 I there


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


def test_a_broken_one_never_fails_an_update():
    case = Case()
    plain, broken = case.policy(), case.policy()
    batch = case.batch(plain)
    options = {"backend": "reference", "cg_iterations": 4}
    first = trpo_update(plain, batch, **options)
    second = trpo_update(broken, batch, preconditioner=lambda r: r * math.nan, **options)
    assert second.accepted and second.restarts == 1 and first.restarts == 0
    assert torch.equal(flat_params(plain), flat_params(broken))


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
