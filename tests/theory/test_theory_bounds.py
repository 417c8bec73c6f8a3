"""Drift and return bounds: never violated on random MDPs, attained by the worst case."""

import itertools

import pytest
import torch
from theory_cases import GAMMAS, at_least, random_case, relative

from trpo_fast.theory import (
    TabularMDP,
    advantage_along,
    advantages,
    discounted_drift_bound,
    expectation_gap_bound,
    expected_return,
    horizon_error_bound,
    kl_divergence,
    lecture_error_bound,
    lower_bounds,
    marginal_drift_bound,
    max_total_variation,
    maximal_coupling,
    mistake_distribution,
    mistake_probability,
    penalty_coefficient,
    pinsker_bound,
    random_mdp,
    state_distribution,
    state_marginals,
    total_variation,
    worst_case,
)

CLOSENESS = (0.0, 0.5, 0.99)


def random_pair(rows: int = 5000) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(2, rows, 4, generator=generator, dtype=torch.float64)
    p, q = logits.softmax(-1)
    return p, q


def test_pinsker_and_its_weaker_form() -> None:
    p, q = random_pair()
    kl, distance = kl_divergence(p, q), total_variation(p, q)
    assert at_least(pinsker_bound(kl), distance) and at_least(kl, distance**2)
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    shifted = torch.tensor([0.5001, 0.4999], dtype=torch.float64)
    tight = total_variation(half, shifted) / pinsker_bound(kl_divergence(half, shifted))
    assert 1 - 1e-6 < float(tight) <= 1 + 1e-6


def test_maximal_coupling_has_the_margins_and_agrees_with_probability_one_minus_tv() -> None:
    p, q = random_pair()
    joint = maximal_coupling(p, q)
    assert joint.min() >= 0
    assert relative(joint.sum(-1), p) < 1e-12 and relative(joint.sum(-2), q) < 1e-12
    agreement = joint.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert relative(agreement, 1 - total_variation(p, q)) < 1e-12
    assert relative(maximal_coupling(p, p), torch.diag_embed(p)) < 1e-15


@pytest.mark.parametrize("closeness", CLOSENESS)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_state_drift_bounds_hold(gamma: float, closeness: float) -> None:
    case, horizon = random_case(gamma, closeness=closeness), 30
    alpha = max_total_variation(case.old, case.new)
    marginals = [state_marginals(case.mdp, policy, horizon) for policy in (case.old, case.new)]
    drift, bound = 2 * total_variation(*marginals), marginal_drift_bound(alpha, horizon)
    linear = 2 * alpha.unsqueeze(-1) * torch.arange(horizon)
    assert at_least(bound, drift) and at_least(linear, bound)
    visits = [state_distribution(case.mdp, policy) for policy in (case.old, case.new)]
    discounted = discounted_drift_bound(alpha, gamma)
    assert at_least(discounted, 2 * total_variation(*visits))
    assert at_least(2 * gamma / (1 - gamma) * alpha, discounted)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_state_drift_bounds_are_attained(gamma: float) -> None:
    alpha, horizon = torch.tensor(0.3, dtype=torch.float64), 30
    case = worst_case(0.3, gamma)
    marginals = [state_marginals(case.mdp, policy, horizon) for policy in (case.old, case.new)]
    assert relative(2 * total_variation(*marginals), marginal_drift_bound(alpha, horizon)) < 1e-12
    visits = [state_distribution(case.mdp, policy) for policy in (case.old, case.new)]
    assert relative(2 * total_variation(*visits), discounted_drift_bound(alpha, gamma)) < 1e-12


@pytest.mark.parametrize("closeness", (0.5, 0.9, 0.99))
def test_without_a_mistake_the_states_are_the_old_ones(closeness: float) -> None:
    """(1 - epsilon)^t of the time; the rest is a distribution, for old policies of both kinds."""
    case = random_case(0.9, closeness=closeness)
    deterministic = torch.nn.functional.one_hot(case.old.argmax(-1), 3).double()
    slips = closeness * deterministic + (1 - closeness) * case.new
    for old, new in ((deterministic, slips), (case.old, case.new)):
        epsilon = mistake_probability(old, new)
        mistakes = mistake_distribution(case.mdp, old, new, epsilon, 30)
        assert mistakes.min() > -1e-9
        assert relative(mistakes.sum(-1), torch.ones(())) < 1e-10
    alpha = max_total_variation(deterministic, slips)
    assert relative(mistake_probability(deterministic, slips), alpha) < 1e-12


def test_the_mistakes_of_stochastic_policies_are_more_than_their_variation() -> None:
    """With epsilon = TV, as the notes have it, what is left need not be a distribution: each action
    leads to a state of its own, and the first goes from one half to a fifth.
    """
    moves = torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    mdp = TabularMDP(moves, torch.zeros(2, 2, dtype=torch.float64), start, 0.9)
    old, new = (torch.tensor([[a, 1 - a]] * 2, dtype=torch.float64) for a in (0.5, 0.2))
    alpha, epsilon = max_total_variation(old, new), mistake_probability(old, new)
    assert float(alpha) == pytest.approx(0.3) and float(epsilon) == pytest.approx(0.6)
    assert float(mistake_distribution(mdp, old, new, alpha, 2)[0, 0]) == pytest.approx(-0.5)
    assert float(mistake_distribution(mdp, old, new, epsilon, 2)[0, 0]) == pytest.approx(0.0)
    marginals = [state_marginals(mdp, policy, 9) for policy in (old, new)]
    assert at_least(marginal_drift_bound(alpha, 9), 2 * total_variation(*marginals))


def test_expectations_differ_by_the_variation_times_the_largest_value() -> None:
    p, q = random_pair()
    values = torch.randn(p.shape, generator=torch.Generator().manual_seed(1)).double()
    for f in (values, values - values.amin(-1, keepdim=True)):
        gap = ((p - q) * f).sum(-1).abs()
        assert at_least(expectation_gap_bound(p, q, f), gap)
        assert at_least(total_variation(p, q) * (f.amax(-1) - f.amin(-1)), gap)
    signs = (p - q).sign()
    attained = ((p - q) * signs).sum(-1)
    assert relative(expectation_gap_bound(p, q, signs), attained) < 1e-12
    assert bool((attained > 1.9 * total_variation(p, q)).all())  # not TV max |f|


@pytest.mark.parametrize("closeness", CLOSENESS)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_lower_bounds_hold_in_order(gamma: float, closeness: float) -> None:
    case = random_case(gamma, closeness=closeness)
    bounds = lower_bounds(case.mdp, case.old, case.new)
    chain = [expected_return(case.mdp, case.new), bounds.coupled, bounds.total_variation, bounds.kl]
    assert all(at_least(larger, smaller) for larger, smaller in itertools.pairwise(chain))
    touching = lower_bounds(case.mdp, case.old, case.old)
    here = expected_return(case.mdp, case.old)
    for bound in (touching.coupled, touching.total_variation, touching.kl):
        assert relative(bound, here) < 1e-12


@pytest.mark.parametrize("alpha, gamma", [(0.0, 0.9), (0.01, 0.5), (0.1, 0.9), (0.5, 0.99)])
def test_the_coupled_bound_is_attained(alpha: float, gamma: float) -> None:
    case = worst_case(alpha, gamma, epsilon=2.5)
    assert relative(advantages(case.mdp, case.old), case.mdp.rewards) < 1e-12
    bound = lower_bounds(case.mdp, case.old, case.new).coupled
    assert relative(bound, expected_return(case.mdp, case.new)) < 1e-12


def test_the_constant_c_cannot_be_smaller() -> None:
    """For small alpha the worst case loses C alpha^2 (1 - O(alpha)) of the surrogate."""
    case = worst_case(1e-4, 0.9)
    lost = 1e-8 * penalty_coefficient(case.mdp, case.old)
    bounds = lower_bounds(case.mdp, case.old, case.new)
    gap = expected_return(case.mdp, case.new) - bounds.total_variation
    assert 0 <= float(gap / lost) < 2e-3


@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_a_small_good_step_has_a_positive_guarantee(gamma: float) -> None:
    """Not vacuous: every bound promises improvement for a small step along the advantages."""
    case = random_case(gamma)
    gains = advantages(case.mdp, case.old)
    scale = penalty_coefficient(case.mdp, case.old)[..., None, None]
    bounds = lower_bounds(case.mdp, case.old, case.old * (1 + 0.02 * gains / scale))
    here = expected_return(case.mdp, case.old)
    for bound in (bounds.coupled, bounds.total_variation, bounds.kl):
        assert bool((bound > here).all())


@pytest.mark.parametrize("horizon", [1, 2, 10, 40])
@pytest.mark.parametrize("closeness", CLOSENESS)
def test_finite_horizon_lecture_bound(horizon: int, closeness: float) -> None:
    case = random_case(0.9, closeness=closeness)
    under_new = advantage_along(case.mdp, case.new, case.old, case.new, horizon)
    under_old = advantage_along(case.mdp, case.old, case.old, case.new, horizon)
    error = horizon_error_bound(case.mdp, case.old, case.new, horizon)
    assert at_least(error, (under_new - under_old).abs())
    assert (error == 0).all() if horizon == 1 else (error > 0).all()


@pytest.mark.parametrize("horizon", [2, 10, 40])
@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_the_lectures_sum_is_above_the_horizon_error(gamma: float, horizon: int) -> None:
    """Nothing is lost in the order gap <= horizon error <= sum 2 alpha t C; the last one has no
    limit.
    """
    case = random_case(gamma, closeness=0.5)
    walks = [
        advantage_along(case.mdp, walker, case.old, case.new, horizon)
        for walker in (case.new, case.old)
    ]
    finer = horizon_error_bound(case.mdp, case.old, case.new, horizon)
    cruder = lecture_error_bound(case.mdp, case.old, case.new, horizon)
    assert at_least(finer, walks[1] - walks[0]) and at_least(cruder, finer)
    alpha, spread = max_total_variation(case.old, case.new), cruder / horizon / (horizon - 1)
    summed = sum(2 * alpha * t * (spread / alpha) for t in range(horizon))
    assert relative(cruder, summed) < 1e-12
    assert at_least(spread / alpha, advantages(case.mdp, case.old).abs().amax((-2, -1)))
    doubled = lecture_error_bound(case.mdp, case.old, case.new, 2 * horizon)
    assert bool((doubled > 3.9 * cruder).all())


def test_the_horizon_error_sums_to_the_penalty() -> None:
    case = worst_case(0.1, 0.9)
    endless = horizon_error_bound(case.mdp, case.old, case.new, 2000)
    assert relative(endless, 0.1**2 * penalty_coefficient(case.mdp, case.old)) < 1e-10


@pytest.mark.parametrize("alpha", [-0.1, 0.6])
def test_worst_case_refuses_impossible_alpha(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha: expected a number in"):
        worst_case(alpha, 0.9)


def test_epsilon_zero_costs_nothing() -> None:
    mdp = random_mdp(4, 3, 0.9, 0)
    idle = type(mdp)(mdp.transitions, torch.zeros_like(mdp.rewards), mdp.initial, mdp.gamma)
    policy = torch.full((4, 3), 1 / 3, dtype=torch.float64)
    assert float(penalty_coefficient(idle, policy)) == 0
