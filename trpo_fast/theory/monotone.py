"""Two iterations that never lose return: minorise-maximise, and conservative policy iteration.

Reads an MDP and a first policy; writes a `Trace` with the policies, their exact returns and the
gain that theory promised before each step was taken. No sampling, no step size to tune.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .bounds import max_kl, penalty_coefficient
from .conservative import best_mixture, mixture
from .duality import bisect, surrogate_gain
from .mdp import TabularMDP, advantages, expected_return, greedy_policy, state_distribution


@dataclass(frozen=True)
class Step:
    """A new policy [..., S, A] and the gain in return [...] that its lower bound guarantees."""

    policy: Tensor
    guaranteed: Tensor


@dataclass(frozen=True)
class Trace:
    """policies [I + 1, ..., S, A], returns [I + 1, ...], guaranteed [I, ...]."""

    policies: Tensor
    returns: Tensor
    guaranteed: Tensor


def iterate(
    mdp: TabularMDP, policy: Tensor, step: Callable[[TabularMDP, Tensor], Step], iterations: int
) -> Trace:
    """Apply `step` again and again to policy [..., S, A] and keep the books."""
    policies, guaranteed = [policy], []
    for _ in range(iterations):
        taken = step(mdp, policies[-1])
        policies.append(taken.policy)
        guaranteed.append(taken.guaranteed)
    returns = torch.stack([expected_return(mdp, each) for each in policies])
    return Trace(torch.stack(policies), returns, torch.stack(guaranteed))


def minoriser_gain(mdp: TabularMDP, old: Tensor, new: Tensor) -> Tensor:
    """M(pi') - M(pi), where M(pi') = L_pi(pi') - C max_s KL(pi || pi') minorises eta(pi'): [...].

    M(pi) = eta(pi), so eta(pi') - eta(pi) >= M(pi') - M(pi): who does not lower M does not lower
    the return.
    """
    return surrogate_gain(mdp, old, new) - penalty_coefficient(mdp, old) * max_kl(old, new)


@dataclass(frozen=True)
class _Ball:
    """Best policy with KL(old || new) <= radius in every state; multipliers [..., S]."""

    policy: Tensor
    multipliers: Tensor


def _best_in_ball(old: Tensor, gains: Tensor, radius: Tensor) -> _Ball:
    """Per state, p(a) = lambda old(a) / (nu - gains(a)), nu set by KL(old || p) = radius [..., 1].

    With e the relative deviation of nu - gains(a) from its mean under `old`, KL = E[log1p(e) - e] +
    log1p(E[e^2 / (1 + e)]): first-order terms cancel on paper, so radii of 1e-10 keep their digits.
    """
    gaps = gains.amax(-1, keepdim=True) - gains
    mean_gap = (old * gaps).sum(-1)
    spread = gaps.amax(-1).clamp_min(1e-30)

    def kl_shortfall(log_offset: Tensor) -> Tensor:
        centre = log_offset.exp() + mean_gap
        e = (gaps - mean_gap.unsqueeze(-1)) / centre.unsqueeze(-1)
        first = (old * (torch.log1p(e) - e)).sum(-1)
        return radius - first - torch.log1p((old * e**2 / (1 + e)).sum(-1))

    low, high = spread.log() - 40, (spread / radius).log()
    offset = bisect(kl_shortfall, low, high.expand(low.shape)).exp().unsqueeze(-1)
    weights = old / (offset + gaps)
    total = weights.sum(-1, keepdim=True)
    return _Ball(weights / total, 1 / total.squeeze(-1))


def minorise_maximise_step(mdp: TabularMDP, old: Tensor) -> Step:
    """The exact maximiser of M over all policies; old [..., S, A] must be positive everywhere.

    For a fixed radius each state is a small convex problem with multiplier lambda_s(radius); the
    gain is concave in the radius with slope sum_s rho(s) lambda_s, so the best radius has that
    slope equal to C. Without a future (gamma = 0) nothing is penalised and the step is greedy.
    """
    gains = advantages(mdp, old)
    visits = state_distribution(mdp, old) / (1 - mdp.gamma)
    coefficient = penalty_coefficient(mdp, old).clamp_min(1e-30)
    ceiling = (visits * gains.amax(-1)).sum(-1).clamp_min(1e-30) / coefficient

    def slope_deficit(log_radius: Tensor) -> Tensor:
        ball = _best_in_ball(old, gains, log_radius.exp().unsqueeze(-1))
        return coefficient - (visits * ball.multipliers).sum(-1)

    log_radius = bisect(slope_deficit, ceiling.log() - 40, ceiling.log(), steps=40)
    new = _best_in_ball(old, gains, log_radius.exp().unsqueeze(-1)).policy
    return Step(new, minoriser_gain(mdp, old, new))


def minorise_maximise(mdp: TabularMDP, policy: Tensor, *, iterations: int) -> Trace:
    """pi_{i+1} = argmax M_i: eta(pi_0) <= eta(pi_1) <= ..., from policy [..., S, A] (Schulman et
    al. 2015, algorithm 1).

    The gains are safe and small: C makes KL steps of about (gradient / C)^2, which is why TRPO
    replaces the penalty by a radius that one chooses.
    """
    return iterate(mdp, policy, minorise_maximise_step, iterations)


def conservative_step(mdp: TabularMDP, old: Tensor) -> Step:
    """Mix the greedy policy into old [..., S, A] with the alpha of `best_mixture`."""
    greedy = greedy_policy(advantages(mdp, old))
    best = best_mixture(mdp, old, greedy)
    return Step(mixture(old, greedy, best.alpha), best.guaranteed)


def conservative_policy_iteration(mdp: TabularMDP, policy: Tensor, *, iterations: int) -> Trace:
    """Kakade and Langford's algorithm from policy [..., S, A], exact; every step gains at least its
    guarantee.
    """
    return iterate(mdp, policy, conservative_step, iterations)
