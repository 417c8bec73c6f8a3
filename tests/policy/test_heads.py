"""Heads: closed forms against torch.distributions and autograd."""

from __future__ import annotations

import pytest
import torch
from cases import HEADS, Case, few
from exactness import relative_error
from torch.distributions import kl_divergence

from trpo_fast import Batch, MLPPolicy, SquashedGaussian, trpo_update
from trpo_fast.core.oracle import metric_matrix


def parameters(case):
    """Distribution parameters of two nearby policies on the same rows, and actions of the first."""
    policy = case.policy()
    batch = case.batch(policy)
    with torch.no_grad():
        old = policy.distribution_params(batch.obs, batch.action_mask)
        noise = 0.2 * torch.randn(old.shape, dtype=old.dtype)
        new = torch.where(old > -1e29, old + noise, old)
    return policy.head, old, new, batch.actions


@pytest.mark.parametrize("case", few(), ids=str)
def test_kl_equals_torch(case):
    head, old, new, _ = parameters(case)
    expected = kl_divergence(head.distribution(old), head.distribution(new))
    assert relative_error(head.kl(old, new), expected) < 1e-12
    assert head.kl(old, old).abs().max() == 0


@pytest.mark.parametrize("case", few(), ids=str)
def test_log_prob_equals_torch(case):
    head, old, _, actions = parameters(case)
    base = head.distribution(old)
    if isinstance(head, SquashedGaussian):
        base = base.base_dist
    assert relative_error(head.log_prob(old, actions), base.log_prob(actions)) < 1e-12
    if not isinstance(head, SquashedGaussian):
        assert relative_error(head.entropy(old), base.entropy()) < 1e-12


@pytest.mark.parametrize("case", few(), ids=str)
def test_score_is_the_gradient_of_log_prob(case):
    head, old, _, actions = parameters(case)
    leaf = old.clone().requires_grad_()
    (expected,) = torch.autograd.grad(head.log_prob(leaf, actions).sum(), leaf)
    assert relative_error(head.score(old, actions), expected) < 1e-12


@pytest.mark.parametrize("case", few(), ids=str)
def test_metric_is_the_hessian_of_the_kl(case):
    head, old, _, _ = parameters(case)
    tangent = torch.randn(2, *old.shape, dtype=old.dtype)
    expected = torch.einsum("nij,knj->kni", metric_matrix(head, old), tangent)
    assert relative_error(head.metric(old, tangent), expected) < 1e-11


@pytest.mark.parametrize("case", few(), ids=str)
def test_metric_is_the_covariance_of_scores(case):
    head, old, _, _ = parameters(case)
    row = old[:1].repeat(200_000, 1)
    generator = torch.Generator().manual_seed(0)
    score = head.score(row, head.sample(row, generator))
    covariance = score.T @ score / len(row)
    expected = head.metric(row[:1], torch.eye(row.shape[-1], dtype=row.dtype).unsqueeze(1))
    assert relative_error(covariance, expected.squeeze(1)) < 0.03


@pytest.mark.parametrize("name", HEADS)
def test_mode_has_the_highest_log_prob(name):
    head, old, _, _ = parameters(Case(name, rows=50))
    best = head.log_prob(old, head.mode(old))
    others = head.log_prob(old, head.sample(old, torch.Generator().manual_seed(1)))
    assert (best >= others - 1e-12).all()


def test_masked_choices_are_impossible():
    case = Case("multicategorical", rows=2000, masks=True)
    policy = case.policy()
    batch = case.batch(policy)
    with torch.no_grad():
        params = policy.distribution_params(batch.obs, batch.action_mask)
    chosen = torch.zeros_like(params).scatter_(-1, policy.head._chosen(batch.actions), 1.0)
    assert not (chosen.bool() & ~batch.action_mask).any()
    probs = torch.cat([f.probs for f in policy.head.distribution(params).factors], dim=-1)
    assert (probs[~batch.action_mask] == 0).all()


def test_squashed_samples_stay_inside_and_kl_is_the_bases():
    policy = Case("squashed").policy()
    obs = torch.randn(9, 5, dtype=torch.float64)
    distribution = policy(obs)
    sample = distribution.sample()
    assert sample.abs().max() < 1 and torch.isfinite(distribution.log_prob(sample)).all()
    assert (
        relative_error(
            kl_divergence(distribution, policy(obs + 1)),
            policy.head.kl(policy.distribution_params(obs), policy.distribution_params(obs + 1)),
        )
        < 1e-14
    )


def test_a_batch_of_a_squashed_gaussian_holds_what_came_before_tanh() -> None:
    torch.manual_seed(0)
    policy = MLPPolicy(4, SquashedGaussian(2))
    obs, advantages = torch.randn(64, 4), torch.randn(64)
    distribution = policy(obs).base_dist
    actions = distribution.sample()
    batch = Batch(obs, actions, advantages, distribution.log_prob(actions).detach())
    info = trpo_update(policy, batch)
    assert info.accepted and info.surrogate_before == pytest.approx(
        float(advantages.mean()), abs=1e-5
    )
