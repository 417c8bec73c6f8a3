"""The one-dimensional regulator in closed form: s' = s + a, a ~ N(k s, sigma^2), r = -s^2 - a^2.

Reads k, sigma, gamma and the initial second moment E[s_0^2]; writes the return, its gradient, the
Fisher matrix and the optimal gain. Only second moments matter: E[s_{t+1}^2] = (1 + k)^2 E[s_t^2] +
sigma^2, so every quantity is a geometric series, finite while gamma (1 + k)^2 < 1. k and sigma
broadcast: [...].
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LQR:
    """gamma in (0, 1) and the second moment of the initial state; only that matters of it."""

    gamma: float = 0.9
    initial_moment: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.gamma < 1.0:
            raise ValueError(f"gamma: expected a number in (0, 1), got {self.gamma}")
        if self.initial_moment < 0:
            raise ValueError(f"initial_moment: expected at least 0, got {self.initial_moment}")


def visited_moment(lqr: LQR, k: Tensor, sigma: Tensor) -> Tensor:
    """X = sum_t gamma^t E[s_t^2] = (m_0 + gamma sigma^2 / (1 - gamma)) / (1 - gamma (1 + k)^2).

    Infinite where the loop diverges faster than the discount.
    """
    contraction = 1 - lqr.gamma * (1 + k) ** 2
    noise = lqr.gamma * sigma**2 / (1 - lqr.gamma)
    moment = (lqr.initial_moment + noise) / contraction
    return torch.where(contraction > 0, moment, torch.inf)


def lqr_return(lqr: LQR, k: Tensor, sigma: Tensor) -> Tensor:
    """J(k, sigma) = -(1 + k^2) X - sigma^2 / (1 - gamma): [...]."""
    return -(1 + k**2) * visited_moment(lqr, k, sigma) - sigma**2 / (1 - lqr.gamma)


def lqr_gradient(lqr: LQR, k: Tensor, sigma: Tensor) -> Tensor:
    """(dJ/dk, dJ/dsigma), exact: [..., 2].

    dJ/dk = -2 k X - (1 + k^2) X 2 gamma (1 + k) / (1 - gamma (1 + k)^2)
    dJ/dsigma = -2 sigma / (1 - gamma) (1 + gamma (1 + k^2) / (1 - gamma (1 + k)^2))
    """
    gamma, moment = lqr.gamma, visited_moment(lqr, k, sigma)
    contraction = 1 - gamma * (1 + k) ** 2
    by_gain = -2 * moment * (k + (1 + k**2) * gamma * (1 + k) / contraction)
    by_noise = -2 * sigma / (1 - gamma) * (1 + gamma * (1 + k**2) / contraction)
    return torch.stack(torch.broadcast_tensors(by_gain, by_noise), -1)


def lqr_fisher(lqr: LQR, k: Tensor, sigma: Tensor) -> Tensor:
    """Diagonal of F: ((1 - gamma) X / sigma^2, 2 / sigma^2), states weighted by d: [..., 2].

    The scores are (a - k s) s / sigma^2 and ((a - k s)^2 / sigma^2 - 1) / sigma; they are
    uncorrelated.
    """
    by_gain = (1 - lqr.gamma) * visited_moment(lqr, k, sigma) / sigma**2
    return torch.stack(torch.broadcast_tensors(by_gain, 2 / sigma**2), -1)


def lqr_natural_gradient(lqr: LQR, k: Tensor, sigma: Tensor) -> Tensor:
    """F^-1 grad J: [..., 2].

    (-2 sigma^2 (k + gamma (1 + k) (1 + k^2) / c), -sigma^3 (1 + gamma (1 + k^2) / c)) / (1 - gamma)
    with c = 1 - gamma (1 + k)^2. X has cancelled: the pull on k does not depend on where the states
    are, and as sigma shrinks k is pulled first. The plain gradient does the opposite when states
    start near zero: dJ/dk falls like sigma^2 and dJ/dsigma like sigma, so sigma goes first.
    """
    return lqr_gradient(lqr, k, sigma) / lqr_fisher(lqr, k, sigma)


def optimal_gain(gamma: float) -> float:
    """k* = -gamma p / (1 + gamma p) with p = (2 gamma - 1 + sqrt(1 + 4 gamma^2)) / (2 gamma).

    V(s) = -p s^2 and p = 1 + gamma p / (1 + gamma p), Riccati's equation. At gamma 0.9, k* =
    -0.5884: the lecture's -1, which stops in one step, pays too much for the action. The best sigma
    is 0.
    """
    p = (2 * gamma - 1 + (1 + 4 * gamma**2) ** 0.5) / (2 * gamma)
    return -gamma * p / (1 + gamma * p)
