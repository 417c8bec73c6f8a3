"""The average reward per step as objective: stationary states, differential values, the gradient.

Reads an MDP whose policy reaches every state again from every other, and that policy; writes
numbers [...], values [..., S], [..., S, A] and gradients [..., P]. The discount is read by
`undiscounted_rows_gradient` alone.
"""

import torch
from torch import Tensor

from .mdp import TabularMDP, action_values, state_transitions


def stationary_distribution(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """d(s) = lim_t P(s_t = s), the solution of d = P_pi' d that sums to 1: [..., S].

    It does not depend on the first state, and no discount is in it. (One of the lecture notes gives
    the discounted visits for it; those sum to 1 / (1 - gamma).)
    """
    kernel = state_transitions(mdp, policy)
    ones = torch.ones_like(kernel)
    identity = torch.eye(mdp.states, dtype=kernel.dtype)
    return torch.linalg.solve((identity - kernel + ones).mT, ones[..., 0])


def average_reward(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """eta(pi) = lim_t (R_1 + ... + R_t) / t = sum_s d(s) sum_a pi(a | s) R(s, a): [...]."""
    rewards = (policy * mdp.rewards).sum(-1)
    return (stationary_distribution(mdp, policy) * rewards).sum(-1)


def differential_state_values(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """V(s) = sum_t E[R_t - eta | s_0 = s], with sum_s d(s) V(s) = 0: [..., S].

    It solves V = r_pi - eta + P_pi V, as (I - P_pi + 1 d') V = r_pi - eta.
    """
    kernel, stationary = state_transitions(mdp, policy), stationary_distribution(mdp, policy)
    identity = torch.eye(mdp.states, dtype=kernel.dtype)
    rewards = (policy * mdp.rewards).sum(-1) - average_reward(mdp, policy).unsqueeze(-1)
    return torch.linalg.solve(identity - kernel + stationary.unsqueeze(-2), rewards)


def differential_action_values(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """Q(s, a) = sum_t E[R_t - eta | s_0 = s, a_0 = a] = R(s, a) - eta + sum_s' P(s' | s, a) V(s'):
    [..., S, A].
    """
    values = differential_state_values(mdp, policy)
    future = torch.einsum("...sat,...t->...sa", mdp.transitions, values)
    return mdp.rewards - average_reward(mdp, policy)[..., None, None] + future


def average_reward_gradient(mdp: TabularMDP, policy: Tensor, score: Tensor) -> Tensor:
    """grad eta = sum_s d(s) sum_a pi(a | s) psi(s, a) Q(s, a), Q differential, for the score psi
    [..., S, A, P] of policy [..., S, A]: [..., P].

    Sutton et al. (2000), theorem 1: differentiate V = sum_a pi Q and sum over d; what is left of
    the gradient of V cancels, because d is stationary.
    """
    weights = stationary_distribution(mdp, policy).unsqueeze(-1) * policy
    weights = weights * differential_action_values(mdp, policy)
    return torch.einsum("...sa,...sap->...p", weights, score)


def undiscounted_rows_gradient(mdp: TabularMDP, policy: Tensor, score: Tensor) -> Tensor:
    """sum_s d(s) sum_a pi(a | s) psi(s, a) Q_gamma(s, a), d stationary: [..., P].

    What the rows of long trajectories give where gamma^t is dropped, each row taken as the first of
    its own. It is not the gradient of the discounted return; as gamma goes to 1 it goes to that of
    the average reward.
    """
    weights = stationary_distribution(mdp, policy).unsqueeze(-1) * policy
    weights = weights * action_values(mdp, policy)
    return torch.einsum("...sa,...sap->...p", weights, score)
