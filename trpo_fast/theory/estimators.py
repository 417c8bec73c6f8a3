"""Single path and vine: what the estimators of the surrogate estimate, by enumeration.

Reads small MDPs or single states; writes every outcome with its probability, so that expectations,
biases and variances are exact sums. Estimators take ratios pi'(a) / q(a) and values Q(s, a) of the
drawn actions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .mdp import TabularMDP, state_marginals


@dataclass(frozen=True)
class Draws:
    """All A^K outcomes of K draws from q [A]: actions [A^K, K] and their probability [A^K]."""

    actions: Tensor
    probability: Tensor


def enumerate_draws(proposal: Tensor, count: int) -> Draws:
    """Every ordered sample of `count` independent actions from `proposal` [A]."""
    choices = torch.arange(proposal.shape[-1])
    actions = torch.cartesian_prod(*[choices] * count).reshape(-1, count)
    return Draws(actions, proposal[actions].prod(-1))


def exact_sum(new: Tensor, values: Tensor) -> Tensor:
    """sum_a pi'(a) Q(a), one rollout from each action of a small set: [..., A] -> [...]."""
    return (new * values).sum(-1)


def importance_estimate(ratios: Tensor, values: Tensor) -> Tensor:
    """1/K sum_k (pi'(a_k) / q(a_k)) Q(a_k), unbiased for `exact_sum`: [..., K] -> [...]."""
    return (ratios * values).mean(-1)


def self_normalised_estimate(ratios: Tensor, values: Tensor) -> Tensor:
    """sum_k ratio_k Q_k / sum_k ratio_k, biased by O(1/K) and consistent: [..., K] -> [...].

    It needs no baseline: adding c to every Q adds exactly c, whatever was drawn. With K = 1 the
    ratio cancels and nothing is left of pi'. Its denominator depends on theta, so row weights
    cannot express it.
    """
    return (ratios * values).sum(-1) / ratios.sum(-1)


@dataclass(frozen=True)
class Moments:
    """Exact mean and variance of an estimator over all draws."""

    mean: Tensor
    variance: Tensor


def moments(estimates: Tensor, probability: Tensor) -> Moments:
    """Mean and variance of `estimates` [M] under `probability` [M]."""
    mean = (probability * estimates).sum(-1)
    return Moments(mean, (probability * (estimates - mean) ** 2).sum(-1))


def cramer_rao_bound(jacobian: Tensor, fisher: Tensor, count: int) -> Tensor:
    """J F^+ J' / n, from J = d h / d theta [H, P] and F [P, P] of one draw: the covariance [H, H]
    of any unbiased estimator of h(theta) from n draws is that plus a positive semi-definite matrix.

    Relative frequencies attain it, and maximum-likelihood estimates do as n grows.
    """
    inverse = torch.linalg.pinv(fisher, rtol=1e-12, hermitian=True)
    return jacobian @ inverse @ jacobian.mT / count


@dataclass(frozen=True)
class Trajectories:
    """All trajectories of T steps: states [M, T], actions [M, T], probability [M]."""

    states: Tensor
    actions: Tensor
    probability: Tensor


def enumerate_trajectories(mdp: TabularMDP, policy: Tensor, horizon: int) -> Trajectories:
    """Every (s_0, a_0, ..., s_{T-1}, a_{T-1}) of one MDP with its probability under policy [S, A]:
    M = (S A)^T.
    """
    states, actions = torch.arange(mdp.states), torch.arange(mdp.actions)
    grid = torch.cartesian_prod(*[states, actions] * horizon)
    visited, taken = grid[:, 0::2], grid[:, 1::2]
    moves = mdp.transitions[visited[:, :-1], taken[:, :-1], visited[:, 1:]].prod(-1)
    chosen = policy[visited, taken].prod(-1)
    return Trajectories(visited, taken, mdp.initial[visited[:, 0]] * moves * chosen)


def horizon_values(mdp: TabularMDP, policy: Tensor, horizon: int) -> Tensor:
    """Q_t(s, a) = R(s, a) + gamma E V_{t+1}(s') with V_T = 0, by backward induction: [T, S, A]."""
    values, following = [], torch.zeros_like(mdp.initial)
    for _ in range(horizon):
        values.append(mdp.rewards + mdp.gamma * mdp.transitions @ following)
        following = (policy * values[-1]).sum(-1)
    return torch.stack(values[::-1])


def horizon_surrogate(mdp: TabularMDP, old: Tensor, new: Tensor, horizon: int) -> Tensor:
    """sum_{t < T} gamma^t sum_s P_t(s) sum_a pi'(a | s) Q_t(s, a), what both estimate: a scalar."""
    discounts = mdp.gamma ** torch.arange(horizon, dtype=old.dtype)
    per_state = exact_sum(new, horizon_values(mdp, old, horizon))
    return (discounts.unsqueeze(-1) * state_marginals(mdp, old, horizon) * per_state).sum()


def single_path_estimate(mdp: TabularMDP, old: Tensor, new: Tensor, paths: Trajectories) -> Tensor:
    """sum_t gamma^t (pi' / pi)(a_t | s_t) G_t with the observed return-to-go G_t: [M]."""
    horizon = paths.states.shape[-1]
    discounts = mdp.gamma ** torch.arange(horizon, dtype=old.dtype)
    discounted = discounts * mdp.rewards[paths.states, paths.actions]
    discounted_to_go = discounted.flip(-1).cumsum(-1).flip(-1)
    ratios = (new / old)[paths.states, paths.actions]
    return (ratios * discounted_to_go).sum(-1)
