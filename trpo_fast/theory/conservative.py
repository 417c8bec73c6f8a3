"""Conservative policy iteration: mix a little of a better policy in, and know what it is worth.

Reads an MDP, the old policy and a target pi'; writes the mixture, its guaranteed return and the
best alpha (Kakade and Langford, 2002). Here epsilon = max_s |sum_a pi'(a | s) A_pi(s, a)|.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .mdp import TabularMDP, expected_return, state_distribution
from .surrogate import expected_advantage


def mixture(old: Tensor, target: Tensor, alpha: Tensor) -> Tensor:
    """pi_new = (1 - alpha) pi + alpha pi': alpha [...], policies [..., S, A]."""
    weight = alpha[..., None, None]
    return (1 - weight) * old + weight * target


def policy_advantage(mdp: TabularMDP, old: Tensor, target: Tensor) -> Tensor:
    """AA(pi') = E_{s ~ d_pi} E_{a ~ pi'} A_pi(s, a): [...].

    L is linear in the policy, so L(mixture) = eta(pi) + alpha AA / (1 - gamma).
    """
    return (state_distribution(mdp, old) * expected_advantage(mdp, old, target)).sum(-1)


def _epsilon(mdp: TabularMDP, old: Tensor, target: Tensor) -> Tensor:
    return expected_advantage(mdp, old, target).abs().amax(-1)


def mixture_bound(mdp: TabularMDP, old: Tensor, target: Tensor, alpha: Tensor) -> Tensor:
    """L(mixture) - 2 epsilon gamma alpha^2 / ((1 - gamma (1 - alpha)) (1 - gamma)): [...].

    With probability (1 - alpha)^t nobody has yet acted as the target by time t and the states are
    the old ones. Dropping alpha from the denominator gives the notes' 2 epsilon gamma alpha^2 / (1
    - gamma)^2.
    """
    gamma = mdp.gamma
    gain = alpha * policy_advantage(mdp, old, target) / (1 - gamma)
    penalty = 2 * _epsilon(mdp, old, target) * gamma * alpha**2
    return expected_return(mdp, old) + gain - penalty / ((1 - gamma * (1 - alpha)) * (1 - gamma))


@dataclass(frozen=True)
class MixtureStep:
    """The best alpha of the quadratic bound and the gain that it guarantees, each [...]."""

    alpha: Tensor
    guaranteed: Tensor


def best_mixture(mdp: TabularMDP, old: Tensor, target: Tensor) -> MixtureStep:
    """Maximise alpha AA / (1 - gamma) - 2 epsilon gamma alpha^2 / (1 - gamma)^2 over [0, 1].

    alpha = (1 - gamma) AA / (4 epsilon gamma), worth AA^2 / (8 epsilon gamma); alpha = 1 where that
    exceeds one, and 0 (worth nothing) where the target has no advantage.
    """
    gamma = mdp.gamma
    slope = policy_advantage(mdp, old, target) / (1 - gamma)
    curvature = 4 * _epsilon(mdp, old, target) * gamma / (1 - gamma) ** 2
    alpha = (slope / curvature.clamp_min(torch.finfo(slope.dtype).tiny)).clamp(0, 1)
    return MixtureStep(alpha, alpha * slope - alpha**2 * curvature / 2)


def optimality_gap_bound(
    mdp: TabularMDP, policy: Tensor, optimal: Tensor, greedy: Tensor
) -> Tensor:
    """eta(pi*) - eta(pi) <= max_s (d*(s) / d_pi(s)) AA(greedy) / (1 - gamma): [...].

    Why it is enough to stop when the greedy policy has little advantage (Kakade and Langford,
    theorem 6.2).
    """
    mismatch = (state_distribution(mdp, optimal) / state_distribution(mdp, policy)).amax(-1)
    return mismatch * policy_advantage(mdp, policy, greedy) / (1 - mdp.gamma)
