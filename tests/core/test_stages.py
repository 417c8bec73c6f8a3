"""forward, jvp, metric and vjp one by one: each against autograd on the same policy."""

from __future__ import annotations

import pytest
import torch
from cases import Case, every_shape, few, random_vector, thinned
from exactness import relative_error

from trpo_fast import flat_params
from trpo_fast.core import reference
from trpo_fast.core.modules import functional_params

SHAPES = thinned(every_shape(), 3)


def setup(case):
    policy = case.policy()
    batch = case.batch(policy)
    theta = flat_params(policy)
    acts = reference.forward(theta, policy.spec, policy.head, batch.obs, batch.action_mask)

    def params(flat):
        return functional_params(policy, batch)(flat)[1]

    return policy, theta, acts, params


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_forward(case):
    policy, theta, acts, params = setup(case)
    assert relative_error(acts.params, params(theta)) < 1e-14
    assert [h.shape[-1] for h in acts.inputs] == list(policy.spec.widths[:-1])


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_jvp(case):
    policy, theta, acts, params = setup(case)
    v = random_vector(policy, columns=2).T.contiguous()
    ours = reference.jvp(theta, policy.spec, acts, v)
    theirs = torch.stack([torch.func.jvp(params, (theta,), (column,))[1] for column in v])
    allowed = acts.params != -1e30  # what a masked logit would do is the metric's to ignore
    assert relative_error(ours * allowed, theirs) < 1e-13


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_vjp(case):
    policy, theta, acts, params = setup(case)
    delta = torch.randn(2, *acts.params.shape, dtype=torch.float64)
    if case.masks:
        delta[:, acts.params == -1e30] = 0.0
    ours = reference.vjp(theta, policy.spec, acts, delta)
    _, pullback = torch.func.vjp(params, theta)
    theirs = torch.stack([pullback(rows)[0] for rows in delta])
    assert relative_error(ours, theirs) < 1e-13


@pytest.mark.parametrize("case", few(), ids=str)
def test_metric_ignores_masked_tangents(case):
    policy, _, acts, _ = setup(case)
    tangent = torch.randn_like(acts.params)
    masked = acts.params == -1e30
    product = reference.metric(policy.head, acts, tangent)
    assert (product[masked] == 0).all()
    changed = torch.where(masked, 100.0, tangent)
    assert torch.equal(reference.metric(policy.head, acts, changed), product)


@pytest.mark.parametrize("activation", ["tanh", "relu", "elu", "silu", "gelu", "identity"])
def test_slopes_are_derivatives(activation):
    z = torch.linspace(-6, 6, 1001, dtype=torch.float64).requires_grad_()
    h, slope = reference.activate(z, activation)
    (expected,) = torch.autograd.grad(h.sum(), z)
    assert relative_error(slope, expected) < 1e-14


def test_jvp_and_vjp_are_adjoint():
    policy, theta, acts, _ = setup(Case(rows=20))
    v = random_vector(policy)
    delta = torch.randn_like(acts.params)
    left = (reference.jvp(theta, policy.spec, acts, v) * delta).sum()
    right = v @ reference.vjp(theta, policy.spec, acts, delta)
    assert float(left) == pytest.approx(float(right), rel=1e-12)
