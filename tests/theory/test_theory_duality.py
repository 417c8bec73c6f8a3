"""Constraint and penalty give the same policies; only sqrt(2 eps / g' F^-1 g) meets the KL."""

import pytest
import torch
from theory_cases import at_least, random_case, relative

from trpo_fast.theory import (
    average_kl,
    dual_ascent,
    dual_value,
    fisher_matrix,
    log_linear_policy,
    log_linear_score,
    max_kl,
    natural_step,
    penalised_policy,
    penalty_coefficient,
    plain_step,
    policy_gradient,
    quadratic_multiplier,
    reciprocal_tilt,
    state_distribution,
    surrogate_gain,
    tabular_features,
)

RADII = (1e-4, 1e-2, 0.3)
FEATURES = tabular_features(5, 3)


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e3])
def test_reciprocal_tilt_is_the_maximiser(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    gains = torch.randn(200, 4, generator=generator, dtype=torch.float64)
    old = torch.randn(200, 4, generator=generator, dtype=torch.float64).softmax(-1)
    heat = torch.full((200,), temperature, dtype=torch.float64)
    best = reciprocal_tilt(old, gains, heat)
    slope = gains + temperature * old / best
    assert relative(best.sum(-1), torch.ones(())) < 1e-12
    assert float(((slope.amax(-1) - slope.amin(-1)) / slope.abs().amax(-1)).max()) < 1e-9


@pytest.mark.parametrize("radius", RADII)
def test_strong_duality(radius: float) -> None:
    case = random_case(0.9)
    solution = dual_ascent(case.mdp, case.old, radius=radius)
    gain = surrogate_gain(case.mdp, case.old, solution.policy)
    assert relative(average_kl(case.mdp, case.old, solution.policy) / radius, torch.ones(())) < 1e-9
    assert (
        relative(dual_value(case.mdp, case.old, solution.multiplier, radius) / gain, torch.ones(()))
        < 1e-9
    )
    penalised = penalised_policy(case.mdp, case.old, solution.multiplier)
    assert relative(penalised, solution.policy) < 1e-12
    for factor in (0.3, 0.9, 1.1, 3.0):
        other = dual_value(case.mdp, case.old, factor * solution.multiplier, radius)
        assert at_least(other, gain) and bool((other > gain).all())


@pytest.mark.parametrize("factor", [0.02, 50.0])
def test_dual_ascent_does_not_need_a_good_start(factor: float) -> None:
    case, radius = random_case(0.9), 0.01
    expected = dual_ascent(case.mdp, case.old, radius=radius)
    start = factor * expected.multiplier
    found = dual_ascent(case.mdp, case.old, radius=radius, start=start)
    assert relative(found.multiplier / expected.multiplier, torch.ones(())) < 1e-9


def test_no_feasible_policy_beats_the_constrained_one() -> None:
    case, radius = random_case(0.9), 0.01
    best = surrogate_gain(case.mdp, case.old, dual_ascent(case.mdp, case.old, radius=radius).policy)
    generator = torch.Generator().manual_seed(1)
    for _ in range(100):
        noise = torch.randn(case.old.shape, generator=generator, dtype=torch.float64)
        rival = (case.old.log() + 0.15 * noise).softmax(-1)
        feasible = average_kl(case.mdp, case.old, rival) <= radius
        gain = surrogate_gain(case.mdp, case.old, rival)
        assert feasible.any() and at_least(best[feasible], gain[feasible])


def quadratic_case() -> tuple[torch.Tensor, torch.Tensor, object]:
    case = random_case(0.9)
    score = log_linear_score(FEATURES, case.old)
    return (
        policy_gradient(case.mdp, case.old, score),
        fisher_matrix(case.mdp, case.old, score),
        case,
    )


def test_quadratic_constraint_and_penalty_agree() -> None:
    gradient, fisher, case = quadratic_case()
    solution = natural_step(gradient, fisher, radius=0.01)
    norm = torch.einsum("np,npq,nq->n", solution.step, fisher, solution.step)
    assert relative(norm / 2 / 0.01, torch.ones(())) < 1e-10
    stationary = (
        gradient - solution.multiplier[:, None] * (fisher @ solution.step[..., None])[..., 0]
    )
    assert stationary.abs().max() < 1e-10
    assert relative(solution.gain, 2 * 0.01 * solution.multiplier) < 1e-10
    assert relative(solution.multiplier, quadratic_multiplier(case.mdp, case.old, 0.01)) < 1e-10


def kl_over_radius(radius: float, *, as_printed: bool) -> torch.Tensor:
    gradient, fisher, case = quadratic_case()
    step = natural_step(gradient, fisher, radius=radius).step
    if as_printed:
        direction = torch.linalg.pinv(fisher, hermitian=True, rtol=1e-12) @ gradient[..., None]
        printed = torch.einsum("np,npq,nq->n", gradient, fisher, gradient)
        step = (2 * radius / printed).sqrt()[:, None] * direction[..., 0]
    moved = log_linear_policy(FEATURES, case.old.log().flatten(-2) + step)
    return average_kl(case.mdp, case.old, moved) / radius


def test_only_the_inverse_fisher_meets_the_kl_to_second_order() -> None:
    errors = [
        (kl_over_radius(radius, as_printed=False) - 1).abs().max() for radius in (1e-4, 1e-6, 1e-8)
    ]
    assert errors[0] < 0.1 and errors[1] < 0.12 * errors[0] and errors[2] < 0.12 * errors[1]
    assert float(kl_over_radius(1e-8, as_printed=True).log().abs().min()) > 1


def test_quadratic_multiplier_is_the_exact_one_in_the_limit() -> None:
    case = random_case(0.9)
    ratios = []
    for radius in (1e-2, 1e-4, 1e-6):
        exact = dual_ascent(case.mdp, case.old, radius=radius).multiplier
        ratios.append(
            float((exact / quadratic_multiplier(case.mdp, case.old, radius) - 1).abs().max())
        )
    assert ratios[2] < ratios[1] < ratios[0] and ratios[2] < 5e-3


def moved_by(case: object, step: torch.Tensor) -> torch.Tensor:
    return log_linear_policy(FEATURES, case.old.log().flatten(-2) + step)


def test_mean_kl_stands_in_for_max_kl() -> None:
    """mean <= max <= mean / min d. Their gap goes to zero with the step, their ratio does not."""
    gradient, fisher, case = quadratic_case()
    least = state_distribution(case.mdp, case.old).amin(-1)
    gaps, ratios = [], []
    for radius in (1e-2, 1e-4, 1e-6):
        new = moved_by(case, natural_step(gradient, fisher, radius=radius).step)
        mean, largest = average_kl(case.mdp, case.old, new), max_kl(case.old, new)
        assert at_least(largest, mean) and at_least(mean / least, largest)
        gaps.append(float((largest - mean).max()))
        ratios.append(largest / mean)
    assert gaps[0] > 50 * gaps[1] > 2500 * gaps[2]
    assert relative(ratios[1] / ratios[2], torch.ones(())) < 0.1
    assert 1.5 < float(ratios[2].median()) < 5.0


def test_two_updates_on_one_batch_add_up_as_lengths() -> None:
    """Each within its radius of where it began; the second is four radii from where the first did,
    as both go along nearly the same direction.
    """
    gradient, fisher, case = quadratic_case()
    radius = 1e-6
    step = natural_step(gradient, fisher, radius=radius).step
    first, second = moved_by(case, step), moved_by(case, 2 * step)
    each = [average_kl(case.mdp, old, new) for old, new in ((case.old, first), (first, second))]
    for kl in each:
        assert relative(kl / radius, torch.ones(())) < 0.02
    total = average_kl(case.mdp, case.old, second)
    assert relative(total / radius, torch.full((), 4.0)) < 0.02


def test_the_penalty_of_the_bound_takes_tiny_steps() -> None:
    """lambda = C instead of a chosen radius: a KL 50 times smaller, at the least, than 0.01."""
    case = random_case(0.9)
    coefficient = penalty_coefficient(case.mdp, case.old)
    kl = average_kl(case.mdp, case.old, penalised_policy(case.mdp, case.old, coefficient))
    chosen = dual_ascent(case.mdp, case.old, radius=0.01)
    assert float(kl.max()) < 0.01 / 50 and bool((chosen.multiplier < coefficient / 5).all())


def test_plain_step_meets_the_euclidean_ball() -> None:
    gradient, _, _ = quadratic_case()
    step = plain_step(gradient, radius=0.3)
    assert relative((step**2).sum(-1), torch.full((64,), 0.3, dtype=torch.float64)) < 1e-12
    assert bool(((gradient * step).sum(-1) > 0).all())
