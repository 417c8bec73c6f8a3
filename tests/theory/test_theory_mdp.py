"""Values, visits and returns against Bellman's equations, long sums and brute force."""

import itertools

import pytest
import torch
from theory_cases import GAMMAS, at_least, random_case, relative

from trpo_fast.theory import (
    TabularMDP,
    action_values,
    advantages,
    expected_return,
    policy_iteration,
    random_mdp,
    stack,
    state_distribution,
    state_marginals,
    state_values,
)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_values_satisfy_bellman(gamma: float) -> None:
    case = random_case(gamma)
    values, q = state_values(case.mdp, case.old), action_values(case.mdp, case.old)
    assert relative((case.old * q).sum(-1), values) < 1e-12
    assert (case.old * advantages(case.mdp, case.old)).sum(-1).abs().max() < 1e-10


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9])
def test_distribution_is_the_discounted_sum_of_marginals(gamma: float) -> None:
    case = random_case(gamma)
    marginals = state_marginals(case.mdp, case.old, 400)
    discounts = gamma ** torch.arange(400, dtype=torch.float64)
    summed = (1 - gamma) * torch.einsum("t,...ts->...s", discounts, marginals)
    distribution = state_distribution(case.mdp, case.old)
    assert relative(distribution, summed) < 1e-12
    rewards = (case.old * case.mdp.rewards).sum(-1)
    assert (
        relative(
            (distribution * rewards).sum(-1) / (1 - gamma), expected_return(case.mdp, case.old)
        )
        < 1e-12
    )


def test_policy_iteration_ends_at_the_best_of_all_deterministic_policies() -> None:
    tables = torch.eye(2, dtype=torch.float64)
    for seed in range(50):
        mdp = random_mdp(4, 2, 0.9, seed)
        policies = policy_iteration(mdp)
        returns = torch.stack([expected_return(mdp, policy) for policy in policies])
        every = [tables[list(choice)] for choice in itertools.product(range(2), repeat=4)]
        best = max(float(expected_return(mdp, policy)) for policy in every)
        assert len(policies) <= 2**4 and bool((returns.diff() > 0).all())
        assert abs(float(returns[-1]) - best) < 1e-10
        assert float(advantages(mdp, policies[-1]).max()) <= 1e-12


def test_same_seed_same_process_and_stack_keeps_them_apart() -> None:
    first, again, other = (random_mdp(3, 2, 0.9, seed) for seed in (7, 7, 8))
    assert torch.equal(first.transitions, again.transitions) and torch.equal(
        first.rewards, again.rewards
    )
    both = stack([first, other])
    assert torch.equal(both.initial[1], other.initial) and not torch.equal(
        first.rewards, other.rewards
    )
    policy = torch.full((3, 2), 0.5, dtype=torch.float64)
    assert relative(expected_return(both, policy)[1], expected_return(other, policy)) < 1e-14


def test_a_nonnegative_expected_advantage_everywhere_improves() -> None:
    case = random_case(0.9)
    gains = advantages(case.mdp, case.old)
    better = case.old * (1 + 0.1 * gains / gains.abs().amax((-2, -1), keepdim=True))
    assert at_least((better * gains).sum(-1), torch.zeros(()))
    assert bool((expected_return(case.mdp, better) > expected_return(case.mdp, case.old)).all())


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("gamma", 1.0, "gamma: expected a number in"),
        ("rewards", torch.zeros(3, 3), "rewards: expected shape"),
        ("initial", torch.ones(3), "initial: expected probabilities"),
        ("transitions", torch.zeros(3, 2, 4), "transitions: expected"),
        ("transitions", torch.zeros(3, 2, 3), "transitions: expected probabilities"),
    ],
)
def test_bad_processes_are_refused(field: str, value: object, message: str) -> None:
    mdp = random_mdp(3, 2, 0.9, 0)
    with pytest.raises(ValueError, match=message):
        TabularMDP(**{**mdp.__dict__, field: value})


def test_stack_wants_one_gamma() -> None:
    with pytest.raises(ValueError, match="one common gamma"):
        stack([random_mdp(3, 2, 0.9, 0), random_mdp(3, 2, 0.8, 0)])
