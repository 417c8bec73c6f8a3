"""Policy gradient theorem, Fisher matrix, compatible features, and what the natural gradient tends
to.
"""

import pytest
import torch
from theory_cases import GAMMAS, random_case, relative

from trpo_fast.theory import (
    advantages,
    autograd_score,
    average_kl,
    compatible_values,
    compatible_weights,
    expected_return,
    fisher_matrix,
    greedy_limit,
    greedy_policy,
    log_linear_policy,
    log_linear_score,
    natural_ascent,
    natural_gradient,
    policy_gradient,
    random_mdp,
    return_hessian,
    state_distribution,
    tabular_features,
)

TABULAR = tabular_features(5, 3)


def features_for(kind: str) -> torch.Tensor:
    if kind == "tabular":
        return TABULAR
    generator = torch.Generator().manual_seed(5)
    return torch.randn(64, 5, 3, 6, generator=generator, dtype=torch.float64)


def theta_for(features: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.randn(64, features.shape[-1], generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["tabular", "log-linear"])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_policy_gradient_theorem(gamma: float, kind: str) -> None:
    mdp, features = random_case(gamma).mdp, features_for(kind)
    theta = theta_for(features).requires_grad_()
    policy = log_linear_policy(features, theta)
    (expected,) = torch.autograd.grad(expected_return(mdp, policy).sum(), theta)
    policy = policy.detach()
    assert (
        relative(policy_gradient(mdp, policy, log_linear_score(features, policy)), expected) < 1e-10
    )


def test_policy_gradient_against_finite_differences() -> None:
    mdp, theta, width = random_case(0.9).mdp, theta_for(TABULAR), 1e-5
    policy = log_linear_policy(TABULAR, theta)
    gradient = policy_gradient(mdp, policy, log_linear_score(TABULAR, policy))
    for index in range(theta.shape[-1]):
        bump = width * torch.eye(theta.shape[-1], dtype=torch.float64)[index]
        ahead, behind = (
            expected_return(mdp, log_linear_policy(TABULAR, theta + sign * bump))
            for sign in (1, -1)
        )
        assert relative((ahead - behind) / (2 * width), gradient[:, index]) < 1e-7


def test_fisher_is_the_hessian_of_the_average_kl() -> None:
    for seed in range(50):
        mdp, theta = random_mdp(3, 2, 0.9, seed), theta_for(tabular_features(3, 2))[seed]
        features = tabular_features(3, 2)
        old = log_linear_policy(features, theta)
        hessian = torch.func.hessian(
            lambda each, m=mdp, o=old, f=features: average_kl(m, o, log_linear_policy(f, each))
        )(theta)
        fisher = fisher_matrix(mdp, old, log_linear_score(features, old))
        assert relative(fisher, hessian) < 1e-12
        assert torch.linalg.matrix_rank(fisher, hermitian=True) == 3 * (2 - 1)


def test_the_kl_is_flat_at_the_old_policy() -> None:
    """Its gradient is zero there, so that the second order is its first."""
    case = random_case(0.9)
    logits = case.old.log().requires_grad_()
    kl = average_kl(case.mdp, case.old, logits.softmax(-1)).sum()
    (slope,) = torch.autograd.grad(kl, logits)
    assert slope.abs().max() < 1e-14


def test_fisher_is_not_the_hessian_of_the_return() -> None:
    """At random parameters: no multiple of F is it, and most have eigenvalues of both signs."""
    features, both, apart = tabular_features(3, 2), 0, []
    for seed in range(50):
        mdp, theta = random_mdp(3, 2, 0.9, seed), theta_for(features)[seed]
        policy = log_linear_policy(features, theta)
        fisher = fisher_matrix(mdp, policy, log_linear_score(features, policy))
        hessian = return_hessian(mdp, lambda each: log_linear_policy(features, each), theta)
        values = torch.linalg.eigvalsh(hessian)
        least = 1e-3 * values.abs().max()
        both += bool(values[0] < -least) and bool(values[-1] > least)
        nearest = (hessian * fisher).sum() / (fisher * fisher).sum() * fisher
        apart.append(float((hessian - nearest).norm() / hessian.norm()))
        assert torch.linalg.eigvalsh(fisher)[0] > -1e-12
    assert both > 40 and min(apart) > 0.1 and sorted(apart)[25] > 0.5


@pytest.mark.parametrize("kind", ["tabular", "log-linear"])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_compatible_weights_are_the_natural_gradient(gamma: float, kind: str) -> None:
    mdp, features = random_case(gamma).mdp, features_for(kind)
    policy = log_linear_policy(features, theta_for(features))
    score = log_linear_score(features, policy)
    occupancy = state_distribution(mdp, policy).unsqueeze(-1) * policy
    weights, natural = compatible_weights(mdp, policy, score), natural_gradient(mdp, policy, score)
    assert relative(weights, natural) < 1e-9
    fitted = torch.einsum("nsa,nsap->np", occupancy * compatible_values(weights, score), score)
    assert relative(fitted, policy_gradient(mdp, policy, score)) < 1e-10


@pytest.mark.parametrize("gamma", GAMMAS)
def test_tabular_natural_gradient_is_the_advantage(gamma: float) -> None:
    case = random_case(gamma)
    natural = natural_gradient(case.mdp, case.old, log_linear_score(TABULAR, case.old))
    gains = advantages(case.mdp, case.old) / (1 - gamma)
    centred = gains - gains.mean(-1, keepdim=True)
    assert relative(natural, centred.flatten(-2)) < 1e-9


@pytest.mark.parametrize("kind", ["tabular", "log-linear"])
def test_large_natural_steps_tend_to_the_greedy_action(kind: str) -> None:
    mdp, features = random_case(0.9).mdp, features_for(kind)
    theta = theta_for(features)
    limit = greedy_limit(mdp, features, theta)
    distances = [
        (natural_ascent(mdp, features, theta, step) - limit).abs().amax((-2, -1)).median()
        for step in (0.1, 1.0, 10.0)
    ]
    assert distances[0] > distances[1] > distances[2]
    assert relative(natural_ascent(mdp, features, theta, 1e6), limit) < 1e-9
    if kind == "tabular":
        gains = advantages(mdp, log_linear_policy(features, theta))
        assert torch.equal(limit, greedy_policy(gains))


def test_large_plain_steps_need_not_be_greedy() -> None:
    """grad(s, a) = d pi A / (1 - gamma): a probable good action beats a rare better one."""
    mdp, theta = random_case(0.9).mdp, theta_for(TABULAR)
    policy = log_linear_policy(TABULAR, theta)
    plain = policy_gradient(mdp, policy, log_linear_score(TABULAR, policy)).reshape(64, 5, 3)
    greedy = advantages(mdp, policy).argmax(-1)
    assert float((plain.argmax(-1) != greedy).double().mean()) > 0.1


def test_small_natural_steps_follow_the_compatible_values() -> None:
    mdp, features = random_case(0.9).mdp, features_for("log-linear")
    theta = theta_for(features)
    policy = log_linear_policy(features, theta)
    score = log_linear_score(features, policy)
    values = compatible_values(compatible_weights(mdp, policy, score), score)

    def error(step: float) -> torch.Tensor:
        moved = natural_ascent(mdp, features, theta, step)
        return (moved - policy * (1 + step * values)).abs().amax((-2, -1))

    assert float((error(2e-5) / error(1e-5) - 4).abs().max()) < 0.1


def test_natural_gradient_does_not_see_the_parametrisation() -> None:
    """With theta = h(phi), h' maps the natural gradient in phi to the one in theta."""
    plain_moved = []
    for seed in range(50):
        mdp, features = random_mdp(5, 3, 0.9, seed), features_for("log-linear")[seed]
        generator = torch.Generator().manual_seed(seed)
        mix = torch.eye(6, dtype=torch.float64) * 2 + 0.5 * torch.randn(
            6, 6, generator=generator, dtype=torch.float64
        )
        phi = 0.3 * theta_for(features)[seed]

        def theta_of(phi: torch.Tensor, mix: torch.Tensor = mix) -> torch.Tensor:
            return mix @ (phi + 0.3 * phi**3)

        def policy_of(phi: torch.Tensor, features: torch.Tensor = features) -> torch.Tensor:
            return log_linear_policy(features, theta_of(phi))

        policy, jacobian = policy_of(phi), torch.func.jacrev(theta_of)(phi)
        direct, indirect = log_linear_score(features, policy), autograd_score(policy_of, phi)
        expected = natural_gradient(mdp, policy, direct)
        assert relative(jacobian @ natural_gradient(mdp, policy, indirect), expected) < 1e-9
        plain = policy_gradient(mdp, policy, direct)
        pushed = jacobian @ policy_gradient(mdp, policy, indirect)
        plain_moved.append(float(torch.cosine_similarity(plain, pushed, dim=0)))
    assert sorted(plain_moved)[25] < 0.9
