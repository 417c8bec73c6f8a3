"""How far a surrogate can be trusted: drift of the visited states, and lower bounds on the return.

Reads pairs of distributions or policies; writes distances and bounds. Throughout, alpha is the
largest TV(pi(. | s), pi'(. | s)) over states and epsilon the largest |A_pi(s, a)|. Lecture notes
mix TV(p, q) = 1/2 sum |p - q| with the sum itself; here a norm is a norm, |p - q|_1 = 2 TV.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .mdp import TabularMDP, advantages, state_marginals
from .surrogate import expected_advantage, surrogate


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """TV(p, q) = 1/2 sum_i |p_i - q_i|, in [0, 1]: [..., n] -> [...]."""
    return (p - q).abs().sum(-1) / 2


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) = sum_i p_i log(p_i / q_i), with 0 log 0 = 0: [..., n] -> [...]."""
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1)


def pinsker_bound(kl: Tensor) -> Tensor:
    """TV <= sqrt(KL / 2), Pinsker's inequality; TV^2 <= KL gives a factor two away: [...]."""
    return (kl.clamp_min(0) / 2).sqrt()


def maximal_coupling(p: Tensor, q: Tensor) -> Tensor:
    """A joint table with margins p and q that agrees as often as possible: [..., n] -> [..., n, n].

    P(x = y) = 1 - TV(p, q): min(p, q) on the diagonal, the rest (p - q)+ (q - p)+ / TV off it. Two
    policies coupled like this in every state part with probability at most alpha a step; that is
    where (1 - alpha)^t comes from, for stochastic policies too. (One of the notes prints "agrees
    with probability epsilon"; it is 1 - epsilon.)
    """
    surplus, deficit = (p - q).clamp_min(0), (q - p).clamp_min(0)
    tiny = torch.finfo(p.dtype).tiny
    rest = surplus.unsqueeze(-1) * deficit.unsqueeze(-2)
    distance = total_variation(p, q).clamp_min(tiny)[..., None, None]
    return torch.diag_embed(torch.minimum(p, q)) + rest / distance


def max_total_variation(old: Tensor, new: Tensor) -> Tensor:
    """alpha = max_s TV(pi(. | s), pi'(. | s)): [..., S, A] -> [...]."""
    return total_variation(old, new).amax(-1)


def max_kl(old: Tensor, new: Tensor) -> Tensor:
    """max_s KL(pi(. | s) || pi'(. | s)): [..., S, A] -> [...]."""
    return kl_divergence(old, new).amax(-1)


def marginal_drift_bound(alpha: Tensor, horizon: int) -> Tensor:
    """|P_t' - P_t|_1 <= 2 (1 - (1 - alpha)^t) <= 2 alpha t at each t: [...] -> [..., horizon]."""
    steps = torch.arange(horizon, dtype=alpha.dtype)
    return 2 * (1 - (1 - alpha.unsqueeze(-1)) ** steps)


def mistake_probability(old: Tensor, new: Tensor) -> Tensor:
    """The smallest epsilon with pi' = (1 - epsilon) pi + epsilon (some policy) in every state: 1 -
    min pi'(a | s) / pi(a | s), [..., S, A] -> [...]. Of a deterministic pi it is the largest TV.
    """
    ratios = torch.where(old > 0, new / old, torch.inf)
    return 1 - ratios.amin((-2, -1)).clamp_max(1)


def mistake_distribution(
    mdp: TabularMDP, old: Tensor, new: Tensor, epsilon: Tensor, horizon: int
) -> Tensor:
    """m_t of P_t' = (1 - epsilon)^t P_t + (1 - (1 - epsilon)^t) m_t for t = 1 ... horizon - 1:
    [..., horizon - 1, S].

    A distribution, of where mistakes lead, for the epsilon of `mistake_probability`. The notes use
    it with epsilon = TV for any two policies; then m_t can be negative, and it is the coupling that
    carries the bound 2 (1 - (1 - epsilon)^t), not this sum.
    """
    steps = torch.arange(1, horizon, dtype=old.dtype)
    right = ((1 - epsilon.unsqueeze(-1)) ** steps).unsqueeze(-1)
    before, after = (state_marginals(mdp, each, horizon)[..., 1:, :] for each in (old, new))
    return (after - right * before) / (1 - right)


def expectation_gap_bound(p: Tensor, q: Tensor, values: Tensor) -> Tensor:
    """|E_p f - E_q f| <= |p - q|_1 max |f| = 2 TV(p, q) max |f|, for f [..., n]: [...].

    The notes write TV for the norm, which is twice it. Half the bound is true of f >= 0: the gap is
    at most TV (max f - min f).
    """
    return 2 * total_variation(p, q) * values.abs().amax(-1)


def discounted_drift_bound(alpha: Tensor, gamma: float) -> Tensor:
    """|d' - d|_1 <= 2 alpha gamma / (1 - gamma (1 - alpha)) <= 2 alpha gamma / (1 - gamma): [...].

    The discounted sum of `marginal_drift_bound`; the second form forgets that states can drift only
    once.
    """
    return 2 * alpha * gamma / (1 - gamma * (1 - alpha))


def advantage_along(
    mdp: TabularMDP, walker: Tensor, old: Tensor, new: Tensor, horizon: int
) -> Tensor:
    """sum_{t < horizon} gamma^t E_{s_t ~ walker}[Abar(s_t)] for either policy walking: [...]."""
    discounts = mdp.gamma ** torch.arange(horizon, dtype=old.dtype)
    gains = expected_advantage(mdp, old, new).unsqueeze(-2)
    return ((state_marginals(mdp, walker, horizon) * gains).sum(-1) * discounts).sum(-1)


def horizon_error_bound(mdp: TabularMDP, old: Tensor, new: Tensor, horizon: int) -> Tensor:
    """sum_{t < horizon} gamma^t 2 alpha t max_s |Abar(s)|, the price of swapping walkers: [...].

    Over an infinite horizon the sum is 2 alpha gamma / (1 - gamma)^2 max |Abar|, and |Abar| <= 2
    alpha epsilon turns it into the penalty 4 epsilon gamma alpha^2 / (1 - gamma)^2 of
    `lower_bounds`.
    """
    steps = torch.arange(horizon, dtype=old.dtype)
    largest = expected_advantage(mdp, old, new).abs().amax(-1)
    return 2 * max_total_variation(old, new) * largest * (mdp.gamma**steps * steps).sum()


def lecture_error_bound(mdp: TabularMDP, old: Tensor, new: Tensor, horizon: int) -> Tensor:
    """sum_{t < horizon} 2 alpha t C = alpha C horizon (horizon - 1): [...]; C = (max R - min R) /
    (1 - gamma) is above every |A(s, a)|.

    The lecture's form of `horizon_error_bound`, without gamma^t and with a cruder C: it has no
    limit as the horizon grows.
    """
    spread = mdp.rewards.amax((-2, -1)) - mdp.rewards.amin((-2, -1))
    largest = spread / (1 - mdp.gamma)
    return max_total_variation(old, new) * largest * horizon * (horizon - 1)


def penalty_coefficient(mdp: TabularMDP, old: Tensor) -> Tensor:
    """C = 4 epsilon gamma / (1 - gamma)^2 with epsilon = max_{s, a} |A_pi(s, a)|: [...]."""
    epsilon = advantages(mdp, old).abs().amax((-2, -1))
    return 4 * epsilon * mdp.gamma / (1 - mdp.gamma) ** 2


@dataclass(frozen=True)
class LowerBounds:
    """eta(pi') >= coupled >= total_variation >= kl, each [...]; equal to eta(pi) at pi' = pi."""

    coupled: Tensor
    total_variation: Tensor
    kl: Tensor


def lower_bounds(mdp: TabularMDP, old: Tensor, new: Tensor) -> LowerBounds:
    """Three lower bounds [...] on eta(pi') of policies [..., S, A], from tight to convenient
    (Schulman et al. 2015, theorem 1).

    coupled          L - 4 epsilon gamma alpha^2 / ((1 - gamma) (1 - gamma (1 - alpha)))
    total_variation  L - C alpha^2
    kl               L - C max_s KL(pi || pi'), by alpha^2 <= KL / 2 <= KL
    """
    objective, coefficient = surrogate(mdp, old, new), penalty_coefficient(mdp, old)
    alpha = max_total_variation(old, new)
    once = (1 - mdp.gamma) / (1 - mdp.gamma * (1 - alpha))
    return LowerBounds(
        coupled=objective - coefficient * alpha**2 * once,
        total_variation=objective - coefficient * alpha**2,
        kl=objective - coefficient * max_kl(old, new),
    )


@dataclass(frozen=True)
class WorstCase:
    """An MDP with an old, a new and a target policy that attain the bounds; see `worst_case`."""

    mdp: TabularMDP
    old: Tensor
    new: Tensor
    target: Tensor


def worst_case(alpha: float, gamma: float, epsilon: float = 1.0) -> WorstCase:
    """Two states where nothing in the argument is lost: `coupled` holds with equality.

    State 0 keeps you unless you take action 2 (`leave`); state 1 is absorbing. Rewards are the
    advantages: (+e, -e, +e) in state 0 and (+e, -e, 0) in state 1 under the old policy (1/2, 1/2,
    0), whose V is 0. The new policy moves alpha from -e to `leave` in state 0 and from +e to -e in
    state 1: it is lured away at the best price into the state where it does worst. `target` (leave;
    -e) does the same to the mixture bound of conservative policy iteration.
    """
    if not 0 <= alpha <= 0.5:
        raise ValueError(f"alpha: expected a number in [0, 0.5], got {alpha}")
    stay, away = [1.0, 0.0], [0.0, 1.0]
    mdp = TabularMDP(
        transitions=torch.tensor([[stay, stay, away], [away, away, away]], dtype=torch.float64),
        rewards=epsilon * torch.tensor([[1.0, -1.0, 1.0], [1.0, -1.0, 0.0]], dtype=torch.float64),
        initial=torch.tensor([1.0, 0.0], dtype=torch.float64),
        gamma=gamma,
    )
    return WorstCase(
        mdp,
        old=torch.tensor([[0.5, 0.5, 0.0]] * 2, dtype=torch.float64),
        new=torch.tensor(
            [[0.5, 0.5 - alpha, alpha], [0.5 - alpha, 0.5 + alpha, 0.0]], dtype=torch.float64
        ),
        target=torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64),
    )
