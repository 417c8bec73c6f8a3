"""Average reward: stationary states, differential values, and the gradient theorem."""

import pytest
import torch
from theory_cases import random_case, relative

from trpo_fast.theory import (
    TabularMDP,
    action_values,
    average_reward,
    average_reward_gradient,
    differential_action_values,
    differential_state_values,
    expected_return,
    log_linear_policy,
    log_linear_score,
    policy_gradient,
    state_marginals,
    state_transitions,
    stationary_distribution,
    tabular_features,
    undiscounted_rows_gradient,
)

FEATURES = tabular_features(5, 3)


def theta_for(features: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.randn(64, features.shape[-1], generator=generator, dtype=torch.float64)


def discounted(mdp: TabularMDP, gamma: float) -> TabularMDP:
    return TabularMDP(mdp.transitions, mdp.rewards, mdp.initial, gamma)


def test_the_stationary_distribution_is_where_all_marginals_go() -> None:
    case = random_case(0.9)
    stationary = stationary_distribution(case.mdp, case.old)
    kernel = state_transitions(case.mdp, case.old)
    assert relative(torch.einsum("ns,nst->nt", stationary, kernel), stationary) < 1e-12
    assert relative(stationary.sum(-1), torch.ones(())) < 1e-12 and stationary.min() > 0
    assert relative(state_marginals(case.mdp, case.old, 200)[..., -1, :], stationary) < 1e-10


def test_differential_values_are_the_sums_over_time() -> None:
    """Of R_t - eta, from every state and action; the tail has died out after 200 steps."""
    mdp, policy = random_case(0.9).mdp, random_case(0.9).old
    rewards = (policy * mdp.rewards).sum(-1) - average_reward(mdp, policy).unsqueeze(-1)
    kernel, values, ahead = state_transitions(mdp, policy), torch.zeros_like(rewards), rewards
    for _ in range(200):
        values = values + ahead
        ahead = torch.einsum("nst,nt->ns", kernel, ahead)
    assert relative(differential_state_values(mdp, policy), values) < 1e-10
    assert (stationary_distribution(mdp, policy) * values).sum(-1).abs().max() < 1e-10
    q = differential_action_values(mdp, policy)
    assert relative((policy * q).sum(-1), values) < 1e-10


def test_the_average_reward_is_the_limit_of_means_and_of_discounted_returns() -> None:
    case = random_case(0.9)
    eta = average_reward(case.mdp, case.old)
    rewards = (case.old * case.mdp.rewards).sum(-1).unsqueeze(-2)
    mean = (state_marginals(case.mdp, case.old, 20_000) * rewards).sum(-1).mean(-1)
    assert relative(mean, eta) < 1e-3
    for gamma in (0.99, 0.9999):
        scaled = (1 - gamma) * expected_return(discounted(case.mdp, gamma), case.old)
        assert relative(scaled, eta) < 10 * (1 - gamma)


@pytest.mark.parametrize("kind", ["tabular", "log-linear"])
def test_average_reward_gradient_theorem(kind: str) -> None:
    mdp, generator = random_case(0.9).mdp, torch.Generator().manual_seed(5)
    features = FEATURES
    if kind == "log-linear":
        features = torch.randn(64, 5, 3, 6, generator=generator, dtype=torch.float64)
    theta = theta_for(features).requires_grad_()
    policy = log_linear_policy(features, theta)
    (expected,) = torch.autograd.grad(average_reward(mdp, policy).sum(), theta)
    policy = policy.detach()
    ours = average_reward_gradient(mdp, policy, log_linear_score(features, policy))
    assert expected.abs().amax(-1).min() > 1e-4 and relative(ours, expected) < 1e-10


def errors_without_discount(gamma: float) -> tuple[float, float]:
    """Relative to the gradients of the average reward and of the discounted return, the median."""
    mdp = discounted(random_case(0.9).mdp, gamma)
    policy = log_linear_policy(FEATURES, theta_for(FEATURES))
    score = log_linear_score(FEATURES, policy)
    ours = undiscounted_rows_gradient(mdp, policy, score)
    average = average_reward_gradient(mdp, policy, score)
    true = (1 - gamma) * policy_gradient(mdp, policy, score)
    away = [(ours - each).norm(dim=-1) / each.norm(dim=-1) for each in (average, true)]
    return float(away[0].median()), float(away[1].median())


def test_dropping_gamma_to_the_t_gives_neither_gradient_until_gamma_is_one() -> None:
    """At 0.5 it is off by a tenth or more from either; the error goes like 1 - gamma."""
    far, near, nearer = (errors_without_discount(gamma) for gamma in (0.5, 0.99, 0.999))
    assert min(far) > 0.1
    for index in (0, 1):
        assert 5.0 < near[index] / nearer[index] < 20.0 and nearer[index] < 2e-3


@pytest.mark.parametrize(("gamma", "cosine"), [(0.5, 0.95), (0.9, 0.995)])
def test_rows_weighed_by_gamma_to_the_t_give_the_discounted_gradient(
    gamma: float, cosine: float
) -> None:
    """Of episodes from the first state on; weights of one give other directions."""
    mdp = discounted(random_case(0.9).mdp, gamma)
    policy = log_linear_policy(FEATURES, theta_for(FEATURES))
    score = log_linear_score(FEATURES, policy)
    wanted, horizon = policy_gradient(mdp, policy, score), 500
    marginals = state_marginals(mdp, policy, horizon)
    rows = torch.einsum("nsa,nsap->nsp", policy * action_values(mdp, policy), score)
    discounts = gamma ** torch.arange(horizon, dtype=torch.float64)
    weighed = torch.einsum("t,nts,nsp->np", discounts, marginals, rows)
    assert relative(weighed, wanted) < 1e-10
    plain = torch.einsum("nts,nsp->np", marginals, rows) / horizon
    assert relative(plain, undiscounted_rows_gradient(mdp, policy, score)) < 0.05
    assert float(torch.cosine_similarity(plain, wanted, dim=-1).min()) < cosine
