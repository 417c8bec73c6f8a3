"""The one-dimensional regulator against autograd, simulation of moments, Riccati iteration and a
sampled Fisher.
"""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from theory_cases import relative

from trpo_fast.theory import (
    LQR,
    lqr_fisher,
    lqr_gradient,
    lqr_natural_gradient,
    lqr_return,
    optimal_gain,
    visited_moment,
)

GAMMAS = (0.5, 0.9, 0.99)


def grid(gamma: float) -> tuple[torch.Tensor, torch.Tensor]:
    reach = 0.97 / gamma**0.5
    k = torch.linspace(-1 - reach, -1 + reach, 15, dtype=torch.float64)
    sigma = torch.linspace(0.05, 2, 8, dtype=torch.float64)
    return torch.meshgrid(k, sigma, indexing="ij")


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("moment", [0.0, 0.04, 1.0])
def test_return_is_the_sum_over_time(gamma: float, moment: float) -> None:
    lqr, (k, sigma) = LQR(gamma, moment), grid(gamma)
    second, total, visited = torch.full_like(k, moment), torch.zeros_like(k), torch.zeros_like(k)
    for step in range(3000):
        noise = gamma**step * sigma**2
        total = total - (1 + k**2) * second - noise
        visited = visited + second
        second = gamma * ((1 + k) ** 2 * second + noise)
    assert relative(lqr_return(lqr, k, sigma), total) < 1e-9
    assert relative(visited_moment(lqr, k, sigma), visited) < 1e-9


@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradient_is_exact(gamma: float) -> None:
    lqr = LQR(gamma, 0.3)
    k, sigma = (each.clone().requires_grad_() for each in grid(gamma))
    expected = torch.autograd.grad(lqr_return(lqr, k, sigma).sum(), (k, sigma))
    got = lqr_gradient(lqr, k.detach(), sigma.detach())
    for index in (0, 1):
        assert (
            float(
                ((got[..., index] - expected[index]) / expected[index].abs().clamp_min(1))
                .abs()
                .max()
            )
            < 1e-10
        )


def test_fisher_is_the_covariance_of_scores() -> None:
    """Gauss-Hermite moments of the action noise are exact; states enter through their second
    moment.
    """
    lqr, k, sigma = LQR(0.9, 0.3), torch.tensor(-0.4).double(), torch.tensor(0.7).double()
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    noise, weight = torch.tensor(nodes), torch.tensor(weights / weights.sum())
    state = (0.1 * visited_moment(lqr, k, sigma)).sqrt() * torch.tensor([[-1.0], [1.0]]).double()
    scores = torch.stack([noise * state / sigma, ((noise**2 - 1) / sigma).expand(2, -1)])
    covariance = torch.einsum("ism,jsm,m->ij", scores, scores, weight) / 2
    assert relative(covariance, torch.diag(lqr_fisher(lqr, k, sigma))) < 1e-12


@pytest.mark.parametrize("gamma", [0.1, 0.3, *GAMMAS])
def test_optimal_gain_is_riccatis_and_a_stationary_maximum(gamma: float) -> None:
    p = 1.0
    for _ in range(20000):
        p = 1 + gamma * p / (1 + gamma * p)
    best = optimal_gain(gamma)
    assert abs(best + gamma * p / (1 + gamma * p)) < 1e-12
    lqr, sigma = LQR(gamma, 0.5), torch.tensor([0.0, 0.1, 1.0]).double()
    k = torch.full_like(sigma, best)
    assert lqr_gradient(lqr, k, sigma)[..., 0].abs().max() < 1e-10
    for shift in (-0.01, 0.01):
        assert bool((lqr_return(lqr, k + shift, sigma) < lqr_return(lqr, k, sigma)).all())
    assert bool((lqr_gradient(lqr, k, sigma)[1:, 1] < 0).all())


def test_the_optimum_is_not_the_notes_minus_one() -> None:
    assert abs(optimal_gain(0.9) - (-0.588403)) < 1e-6
    lqr, still = LQR(), torch.tensor(0.0).double()
    best, stop = (
        lqr_return(lqr, torch.tensor(k).double(), still) for k in (optimal_gain(0.9), -1.0)
    )
    assert float(best) > float(stop) + 0.4


def test_natural_gradient_does_not_depend_on_where_the_states_are() -> None:
    k, sigma = grid(0.9)
    near, far = (lqr_natural_gradient(LQR(0.9, moment), k, sigma) for moment in (0.01, 10.0))
    assert relative(near, far) < 1e-10
    plain = [lqr_gradient(LQR(0.9, moment), k, sigma) for moment in (0.01, 10.0)]
    assert relative(plain[0], plain[1]) > 0.1


def test_shrinking_noise_starves_the_plain_gradient_of_the_gain_only() -> None:
    """From the origin, (dJ/dk) / (dJ/dsigma) falls like sigma; the natural one grows like 1 /
    sigma.
    """
    lqr, sigma = LQR(0.9, 0.0), torch.tensor([0.2, 0.1]).double()
    k = torch.full_like(sigma, -0.2)
    plain, natural = lqr_gradient(lqr, k, sigma), lqr_natural_gradient(lqr, k, sigma)
    slopes = [(each[..., 0] / each[..., 1]).abs() for each in (plain, natural)]
    assert abs(float(slopes[0][1] / slopes[0][0]) - 0.5) < 1e-10
    assert abs(float(slopes[1][1] / slopes[1][0]) - 2.0) < 1e-10


def test_divergent_loops_have_no_return() -> None:
    value = lqr_return(LQR(), torch.tensor([0.2, -2.2]).double(), torch.tensor(1.0).double())
    assert bool(torch.isneginf(value).all())


@pytest.mark.parametrize(
    "gamma, moment, name", [(0.0, 1.0, "gamma"), (1.0, 1.0, "gamma"), (0.9, -1.0, "initial_moment")]
)
def test_bad_constants_are_refused(gamma: float, moment: float, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected"):
        LQR(gamma, moment)


def test_the_example_draws_what_its_caption_says(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "lqr_gradient_field.py"
    drawn = runpy.run_path(str(example))
    for start in drawn["STARTS"]:
        plain, natural = (drawn["ascend"](panel, start)[-1] for panel in drawn["PANELS"])
        assert abs(natural[0] - optimal_gain(0.9)) < 0.01 < 0.1 < abs(plain[0] - optimal_gain(0.9))
        assert max(plain[1], natural[1]) < 0.02
    drawn["main"](tmp_path / "field.png")
    for picture in (tmp_path / "field.png", example.with_suffix(".png")):
        assert picture.read_bytes()[:4] == b"\x89PNG" and picture.stat().st_size < 200_000
