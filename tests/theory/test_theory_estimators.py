"""Single path and vine estimators: expectations by enumeration of every outcome."""

import pytest
import torch
from theory_cases import relative

from trpo_fast.theory import (
    Draws,
    cramer_rao_bound,
    enumerate_draws,
    enumerate_trajectories,
    exact_sum,
    horizon_surrogate,
    horizon_values,
    importance_estimate,
    moments,
    random_mdp,
    random_policy,
    self_normalised_estimate,
    single_path_estimate,
    state_values,
)

SEEDS = range(50)


def vine_state(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A proposal, a new policy and values of one state with three actions."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    proposal, new = logits.softmax(-1)
    return proposal, new, torch.randn(3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_importance_estimates_are_unbiased_and_average_out(count: int) -> None:
    for seed in SEEDS:
        proposal, new, values = vine_state(seed)
        draws, single = enumerate_draws(proposal, count), enumerate_draws(proposal, 1)
        found, one = (
            moments(
                importance_estimate((new / proposal)[d.actions], values[d.actions]), d.probability
            )
            for d in (draws, single)
        )
        assert relative(draws.probability.sum(), torch.ones(())) < 1e-12
        assert relative(found.mean, exact_sum(new, values)) < 1e-10
        assert relative(found.variance, one.variance / count) < 1e-10


def self_normalised_bias(seed: int, count: int) -> torch.Tensor:
    proposal, new, values = vine_state(seed)
    draws = enumerate_draws(proposal, count)
    estimates = self_normalised_estimate((new / proposal)[draws.actions], values[draws.actions])
    return moments(estimates, draws.probability).mean - exact_sum(new, values)


def test_self_normalised_estimates_are_biased_but_consistent() -> None:
    biases = torch.stack(
        [
            torch.stack([self_normalised_bias(seed, count) for count in (1, 2, 4, 8)])
            for seed in SEEDS
        ]
    )
    mean = biases.abs().mean(0)
    assert float(mean[0]) > 0.1
    assert bool((mean.diff() < 0).all()) and float(mean[3] / mean[2]) < 0.65


def test_self_normalised_estimates_need_no_baseline() -> None:
    for seed in SEEDS:
        proposal, new, values = vine_state(seed)
        draws = enumerate_draws(proposal, 3)
        ratios, drawn = (new / proposal)[draws.actions], values[draws.actions]
        shifted = self_normalised_estimate(ratios, drawn + 7.0)
        assert relative(shifted, self_normalised_estimate(ratios, drawn) + 7.0) < 1e-12
        assert (
            float(
                (importance_estimate(ratios, drawn + 7.0) - importance_estimate(ratios, drawn) - 7)
                .abs()
                .max()
            )
            > 0.1
        )


def test_one_draw_leaves_nothing_of_the_new_policy() -> None:
    proposal, new, values = vine_state(0)
    draws = enumerate_draws(proposal, 1)
    estimates = self_normalised_estimate((new / proposal)[draws.actions], values[draws.actions])
    assert relative(moments(estimates, draws.probability).mean, exact_sum(proposal, values)) < 1e-14


def soft_max_state(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities p of a soft-max, and its Fisher matrix diag(p) - p p', which is dp / dz."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.randn(4, generator=generator, dtype=torch.float64).softmax(-1)
    return p, torch.diag(p) - torch.outer(p, p)


def covariance(estimates: torch.Tensor, draws: Draws, mean: torch.Tensor) -> torch.Tensor:
    away = estimates - mean
    return torch.einsum("m,mi,mj->ij", draws.probability, away, away)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_no_unbiased_estimate_beats_cramer_and_rao(count: int) -> None:
    """Of the probabilities: frequencies attain the bound, uneven weights of the draws do not."""
    for seed in SEEDS:
        p, fisher = soft_max_state(seed)
        draws = enumerate_draws(p, count)
        bound = cramer_rao_bound(fisher, fisher, count)
        each = torch.nn.functional.one_hot(draws.actions, 4).double()
        weights = torch.arange(1.0, count + 1, dtype=torch.float64)
        uneven = torch.einsum("k,mka->ma", weights / weights.sum(), each)
        for estimates in (each.mean(1), uneven):
            mean = torch.einsum("m,ma->a", draws.probability, estimates)
            assert relative(mean, p) < 1e-12
        assert relative(covariance(each.mean(1), draws, p), bound) < 1e-12
        excess = torch.linalg.eigvalsh(covariance(uneven, draws, p) - bound)
        assert excess[0] > -1e-12 and (count == 1 or excess[-1] > 1e-4)


def test_maximum_likelihood_tends_to_the_bound() -> None:
    """The log odds of a coin from n throws, half a throw added to each side: n Var -> 1 / F."""
    p, ratios = torch.tensor(0.3, dtype=torch.float64), []
    fisher = (p * (1 - p)).reshape(1, 1)
    for count in (50, 500, 5000):
        heads = torch.arange(count + 1, dtype=torch.float64)
        choose = torch.lgamma(torch.tensor(count + 1.0, dtype=torch.float64))
        choose = choose - torch.lgamma(heads + 1) - torch.lgamma(count - heads + 1)
        chance = (choose + heads * p.log() + (count - heads) * (1 - p).log()).exp()
        odds = ((heads + 0.5) / (count - heads + 0.5)).log()
        one = torch.ones(1, 1, dtype=torch.float64)
        ratios.append(float(moments(odds, chance).variance / cramer_rao_bound(one, fisher, count)))
    assert 1.0 < ratios[2] < ratios[1] < ratios[0] < 1.1 and ratios[2] < 1.001


@pytest.mark.parametrize("horizon", [1, 3])
def test_single_paths_are_unbiased(horizon: int) -> None:
    for seed in SEEDS:
        mdp = random_mdp(2, 3, 0.9, seed)
        old, new = random_policy(mdp, seed=1), random_policy(mdp, seed=2)
        paths = enumerate_trajectories(mdp, old, horizon)
        assert relative(paths.probability.sum(), torch.ones(())) < 1e-12
        found = moments(single_path_estimate(mdp, old, new, paths), paths.probability)
        assert relative(found.mean, horizon_surrogate(mdp, old, new, horizon)) < 1e-10


def test_horizon_values_tend_to_the_endless_ones() -> None:
    for seed in SEEDS:
        mdp = random_mdp(3, 2, 0.9, seed)
        policy = random_policy(mdp, seed=1)
        first = (policy * horizon_values(mdp, policy, 300)[0]).sum(-1)
        assert relative(first, state_values(mdp, policy)) < 1e-10


def test_vine_with_an_exact_sum_has_less_variance_than_a_single_path() -> None:
    """At one step both look at one state; the exact sum removes the variance of the action."""
    for seed in SEEDS:
        mdp = random_mdp(2, 3, 0.9, seed)
        old, new = random_policy(mdp, seed=1), random_policy(mdp, seed=2)
        paths = enumerate_trajectories(mdp, old, 1)
        single = moments(single_path_estimate(mdp, old, new, paths), paths.probability)
        vine = moments(exact_sum(new, mdp.rewards), mdp.initial)
        assert relative(vine.mean, single.mean) < 1e-10 and bool(vine.variance < single.variance)
