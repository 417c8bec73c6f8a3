"""The trust region as a constraint and as a penalty: the same policies, joined by one multiplier.

Reads an MDP and the old policy; writes the policies that solve, exactly and over all tables pi',

    constrained   max L(pi') - eta(pi)   subject to   E_{s ~ d} KL(pi || pi') <= delta
    penalised     max L(pi') - eta(pi) - lambda E_{s ~ d} KL(pi || pi')

and the same two problems in their quadratic model, where the solution is the natural gradient step.
Old policies must give every action a positive probability.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .bounds import kl_divergence
from .mdp import TabularMDP, advantages, state_distribution
from .surrogate import expected_advantage


def bisect(
    increasing: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, steps: int = 50
) -> Tensor:
    """Root of an elementwise increasing function, halving [low, high]: [...]."""
    for _ in range(steps):
        middle = (low + high) / 2
        above = increasing(middle) > 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


def reciprocal_tilt(old: Tensor, gains: Tensor, temperature: Tensor) -> Tensor:
    """argmax over p of <p, gains> - temperature KL(old || p): [..., A] with temperature [...].

    Stationarity reads p(a) = temperature old(a) / (nu - gains(a)); nu > max gains makes it sum to
    one. (The other direction, KL(p || old), would give the exponential tilt old exp(gains /
    temperature).)
    """
    gaps = gains.amax(-1, keepdim=True) - gains
    scaled = temperature.unsqueeze(-1) * old
    best = scaled.gather(-1, gains.argmax(-1, keepdim=True)).squeeze(-1)

    def excess(log_offset: Tensor) -> Tensor:
        return 1 - (scaled / (log_offset.exp().unsqueeze(-1) + gaps)).sum(-1)

    offset = bisect(excess, best.log(), temperature.log()).exp()
    tilted = scaled / (offset.unsqueeze(-1) + gaps)
    return tilted / tilted.sum(-1, keepdim=True)


def average_kl(mdp: TabularMDP, old: Tensor, new: Tensor) -> Tensor:
    """E_{s ~ d_pi} KL(pi(. | s) || pi'(. | s)): [...]."""
    return (state_distribution(mdp, old) * kl_divergence(old, new)).sum(-1)


def surrogate_gain(mdp: TabularMDP, old: Tensor, new: Tensor) -> Tensor:
    """L_pi(pi') - eta(pi) = E_{s ~ d} Abar(s) / (1 - gamma): [...]."""
    gain = (state_distribution(mdp, old) * expected_advantage(mdp, old, new)).sum(-1)
    return gain / (1 - mdp.gamma)


def penalised_policy(mdp: TabularMDP, old: Tensor, multiplier: Tensor) -> Tensor:
    """argmax over pi' of surrogate gain - multiplier * average KL, state by state: [..., S, A]."""
    temperature = ((1 - mdp.gamma) * multiplier).unsqueeze(-1).expand(old.shape[:-1])
    return reciprocal_tilt(old, advantages(mdp, old), temperature)


def dual_value(mdp: TabularMDP, old: Tensor, multiplier: Tensor, radius: float) -> Tensor:
    """D(lambda) = max over pi' of gain - lambda (KL - radius), above every feasible gain: [...]."""
    new = penalised_policy(mdp, old, multiplier)
    return surrogate_gain(mdp, old, new) - multiplier * (average_kl(mdp, old, new) - radius)


@dataclass(frozen=True)
class DualSolution:
    """The constrained policy [..., S, A] and the multiplier [...] whose penalty gives it too."""

    policy: Tensor
    multiplier: Tensor


def dual_ascent(
    mdp: TabularMDP,
    old: Tensor,
    *,
    radius: float,
    iterations: int = 60,
    start: Tensor | None = None,
) -> DualSolution:
    """Solve the constrained problem by lambda <- lambda + rate (KL - radius): [..., S, A], [...].

    KL - radius is minus the slope of the convex dual D, so this is a descent on D. Near the
    solution KL goes like 1 / lambda^2, hence the rate lambda / (2 radius); above `radius` the raise
    is at most a doubling.
    """
    multiplier = quadratic_multiplier(mdp, old, radius) if start is None else start
    for _ in range(iterations):
        kl = average_kl(mdp, old, penalised_policy(mdp, old, multiplier))
        rate = multiplier / (2 * radius)
        multiplier = multiplier + (rate * (kl - radius)).clamp_max(multiplier)
    return DualSolution(penalised_policy(mdp, old, multiplier), multiplier)


def quadratic_multiplier(mdp: TabularMDP, old: Tensor, radius: float) -> Tensor:
    """lambda = sqrt(g' F^-1 g / (2 radius)) with g' F^-1 g = E_{d, pi} A^2 / (1 - gamma)^2: [...].

    That is the tabular soft-max; F never has to be formed.
    """
    second_moment = (old * advantages(mdp, old) ** 2).sum(-1)
    squared_norm = (state_distribution(mdp, old) * second_moment).sum(-1) / (1 - mdp.gamma) ** 2
    return (squared_norm / (2 * radius)).sqrt()


@dataclass(frozen=True)
class QuadraticSolution:
    """Step [..., P], multiplier [...] and gain g' step [...] of the quadratic trust region."""

    step: Tensor
    multiplier: Tensor
    gain: Tensor


def natural_step(gradient: Tensor, fisher: Tensor, *, radius: float) -> QuadraticSolution:
    """Maximise g' x subject to x' F x / 2 <= radius: x = sqrt(2 radius / (g' F^-1 g)) F^-1 g, for g
    [..., P] and F [..., P, P].

    The multiplier lambda = sqrt(g' F^-1 g / (2 radius)) gives the same x = F^-1 g / lambda as the
    maximiser of g' x - lambda x' F x / 2. One of the lecture notes prints g' F g under the root.
    That is a slip: then x' F x / 2 = radius (g' F^-1 g) / (g' F g), not the radius unless F
    happens to be the identity along g. A singular F (a soft-max is indifferent to a constant in its
    logits) is inverted on its range, where g lies.
    """
    direction = (
        torch.linalg.pinv(fisher, rtol=1e-12, hermitian=True) @ gradient.unsqueeze(-1)
    ).squeeze(-1)
    squared_norm = (gradient * direction).sum(-1)
    multiplier = (squared_norm / (2 * radius)).sqrt()
    step = direction / multiplier.unsqueeze(-1)
    return QuadraticSolution(step, multiplier, (gradient * step).sum(-1))


def plain_step(gradient: Tensor, *, radius: float) -> Tensor:
    """Maximise g' x subject to |x|^2 <= radius, plain ascent: sqrt(radius / |g|^2) g [..., P]."""
    return (radius / (gradient**2).sum(-1, keepdim=True)).sqrt() * gradient
