"""Conservative policy iteration: the mixture bound, its best alpha and what it guarantees."""

import pytest
import torch
from theory_cases import GAMMAS, at_least, random_case, relative

from trpo_fast.theory import (
    advantages,
    best_mixture,
    conservative_policy_iteration,
    expected_return,
    greedy_policy,
    mixture,
    mixture_bound,
    optimality_gap_bound,
    policy_advantage,
    policy_iteration,
    random_mdp,
    surrogate,
    worst_case,
)

ALPHAS = (0.0, 0.01, 0.1, 0.5, 1.0)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_mixture_bound_holds(alpha: float, gamma: float) -> None:
    case = random_case(gamma)
    weight = torch.full((64,), alpha, dtype=torch.float64)
    greedy = greedy_policy(advantages(case.mdp, case.old))
    for target in (case.new, greedy):
        mixed = mixture(case.old, target, weight)
        bound = mixture_bound(case.mdp, case.old, target, weight)
        assert at_least(expected_return(case.mdp, mixed), bound)
        linear = surrogate(case.mdp, case.old, case.old) + weight * policy_advantage(
            case.mdp, case.old, target
        ) / (1 - gamma)
        assert relative(surrogate(case.mdp, case.old, mixed), linear) < 1e-12
        assert at_least(linear, bound)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99])
def test_mixture_bound_is_attained(alpha: float, gamma: float) -> None:
    case = worst_case(0.0, gamma, epsilon=1.5)
    weight = torch.tensor(alpha, dtype=torch.float64)
    mixed = mixture(case.old, case.target, weight)
    bound = mixture_bound(case.mdp, case.old, case.target, weight)
    assert relative(bound, expected_return(case.mdp, mixed)) < 1e-12


@pytest.mark.parametrize("gamma", GAMMAS)
def test_best_alpha_is_the_best_of_a_grid_and_its_gain_is_real(gamma: float) -> None:
    case = random_case(gamma)
    greedy = greedy_policy(advantages(case.mdp, case.old))
    best = best_mixture(case.mdp, case.old, greedy)
    epsilon = (greedy * advantages(case.mdp, case.old)).sum(-1).abs().amax(-1)
    slope = policy_advantage(case.mdp, case.old, greedy) / (1 - gamma)
    for alpha in torch.linspace(0, 1, 101, dtype=torch.float64):
        promised = alpha * slope - 2 * epsilon * gamma * alpha**2 / (1 - gamma) ** 2
        assert at_least(best.guaranteed, promised)
    gained = expected_return(case.mdp, mixture(case.old, greedy, best.alpha)) - expected_return(
        case.mdp, case.old
    )
    assert at_least(gained, best.guaranteed) and bool((best.guaranteed > 0).all())
    inner = best.alpha < 1
    closed = policy_advantage(case.mdp, case.old, greedy) ** 2 / (8 * epsilon * max(gamma, 1e-300))
    assert relative(best.guaranteed[inner], closed[inner]) < 1e-12 if inner.any() else gamma == 0


def test_a_worse_target_is_not_mixed_in() -> None:
    case = random_case(0.9)
    worst = greedy_policy(-advantages(case.mdp, case.old))
    best = best_mixture(case.mdp, case.old, worst)
    assert torch.equal(best.alpha, torch.zeros(64, dtype=torch.float64))
    assert torch.equal(best.guaranteed, torch.zeros(64, dtype=torch.float64))


def test_conservative_policy_iteration_keeps_its_promises() -> None:
    case = random_case(0.9)
    trace = conservative_policy_iteration(case.mdp, case.old, iterations=200)
    assert at_least(trace.returns.diff(dim=0), trace.guaranteed)
    assert bool((trace.guaranteed[:20] > 0).all())


def test_small_greedy_advantage_means_near_optimal() -> None:
    for seed in range(50):
        mdp = random_mdp(5, 3, 0.9, seed)
        optimal = policy_iteration(mdp)[-1]
        start = torch.full((5, 3), 1 / 3, dtype=torch.float64)
        trace = conservative_policy_iteration(mdp, start, iterations=20)
        for policy in (trace.policies[0], trace.policies[-1]):
            gap = expected_return(mdp, optimal) - expected_return(mdp, policy)
            bound = optimality_gap_bound(
                mdp, policy, optimal, greedy_policy(advantages(mdp, policy))
            )
            assert at_least(bound, gap)
        assert (
            relative(optimality_gap_bound(mdp, optimal, optimal, optimal), torch.zeros(())) < 1e-10
        )
