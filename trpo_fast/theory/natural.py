"""Policy gradient, Fisher matrix and natural gradient of a parametrised policy, exactly.

Reads an MDP, a policy table and its score psi(s, a) = grad log pi(a | s) [..., S, A, P], from
`log_linear_score` or, for any differentiable parametrisation, `autograd_score`; writes gradients
[..., P] and the Fisher matrix [..., P, P]. States are weighted by the normalised d of the current
policy.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .mdp import (
    TabularMDP,
    action_values,
    advantages,
    expected_return,
    greedy_policy,
    state_distribution,
)


def tabular_features(states: int, actions: int) -> Tensor:
    """One parameter per state and action, theta[s * A + a], as log-linear features: [S, A, S A]."""
    return torch.eye(states * actions, dtype=torch.float64).reshape(states, actions, -1)


def log_linear_policy(features: Tensor, theta: Tensor) -> Tensor:
    """pi(a | s) proportional to exp(theta' phi(s, a)): features [..., S, A, P], theta [..., P]."""
    return torch.einsum("...sap,...p->...sa", features, theta).softmax(-1)


def log_linear_score(features: Tensor, policy: Tensor) -> Tensor:
    """psi(s, a) = phi(s, a) - sum_b pi(b | s) phi(s, b): [..., S, A, P]."""
    return features - torch.einsum("...sa,...sap->...sp", policy, features).unsqueeze(-2)


def autograd_score(policy_of: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """psi = d log pi / d theta of any differentiable `policy_of(theta) -> [S, A]`: [S, A, P]."""
    return torch.func.jacrev(lambda each: policy_of(each).log())(theta)


def policy_gradient(mdp: TabularMDP, policy: Tensor, score: Tensor) -> Tensor:
    """grad eta = 1 / (1 - gamma) sum_s d(s) sum_a pi(a | s) psi(s, a) Q(s, a): [..., P].

    Sutton et al. (2000). Nothing of d is differentiated: unrolling grad V leaves one term per
    visit. A in place of Q gives the same, because scores average to zero in every state.
    """
    weights = state_distribution(mdp, policy).unsqueeze(-1) * policy * action_values(mdp, policy)
    return torch.einsum("...sa,...sap->...p", weights, score) / (1 - mdp.gamma)


def fisher_matrix(mdp: TabularMDP, policy: Tensor, score: Tensor) -> Tensor:
    """F = sum_s d(s) sum_a pi(a | s) psi psi', the Hessian of the average KL: [..., P, P].

    It is not the Hessian of the return, near an optimum or elsewhere: F knows no rewards and has no
    negative eigenvalue, that Hessian mostly has eigenvalues of both signs.
    """
    weights = state_distribution(mdp, policy).unsqueeze(-1) * policy
    return torch.einsum("...sa,...sap,...saq->...pq", weights, score, score)


def return_hessian(mdp: TabularMDP, policy_of: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """Second derivatives of eta(pi_theta) at theta [P], by automatic differentiation: [P, P]."""
    return torch.func.hessian(lambda each: expected_return(mdp, policy_of(each)))(theta)


def natural_gradient(mdp: TabularMDP, policy: Tensor, score: Tensor) -> Tensor:
    """F^+ grad eta; a pseudo-inverse, as F of a tabular soft-max has rank S (A - 1): [..., P].

    For the tabular soft-max it is A(s, a) / (1 - gamma) up to a constant per state: d and pi have
    cancelled.
    """
    inverse = torch.linalg.pinv(fisher_matrix(mdp, policy, score), rtol=1e-12, hermitian=True)
    return torch.einsum("...pq,...q->...p", inverse, policy_gradient(mdp, policy, score))


def compatible_weights(mdp: TabularMDP, policy: Tensor, score: Tensor) -> Tensor:
    """w minimising sum_s d(s) sum_a pi(a | s) (w' psi(s, a) - A(s, a) / (1 - gamma))^2: [..., P].

    Kakade (2002), theorem 1: w is the natural gradient. Solved as least squares over the S A pairs,
    without forming F. Fitting Q or A is the same fit; 1 / (1 - gamma) is there because d is
    normalised, eta is not.
    """
    root = (state_distribution(mdp, policy).unsqueeze(-1) * policy).sqrt()
    design = (root.unsqueeze(-1) * score).flatten(-3, -2)
    target = (root * advantages(mdp, policy)).flatten(-2) / (1 - mdp.gamma)
    solution = torch.linalg.lstsq(design, target.unsqueeze(-1), rcond=1e-9, driver="gelsd")
    return solution.solution.squeeze(-1)


def compatible_values(weights: Tensor, score: Tensor) -> Tensor:
    """f(s, a) = w' psi(s, a), the advantages as the parametrisation can see them: [..., S, A]."""
    return torch.einsum("...sap,...p->...sa", score, weights)


def natural_ascent(mdp: TabularMDP, features: Tensor, theta: Tensor, step: float) -> Tensor:
    """The log-linear policy after theta + step F^+ grad eta: [..., S, A].

    Small steps (Kakade, theorem 3): pi' = pi (1 + step f) + O(step^2). Large steps (theorem 2): pi'
    puts everything on argmax_a f(s, a); for the tabular soft-max f = A / (1 - gamma), so the limit
    is policy iteration. Plain gradients only tend to a better action, not to the best.
    """
    policy = log_linear_policy(features, theta)
    score = log_linear_score(features, policy)
    return log_linear_policy(features, theta + step * natural_gradient(mdp, policy, score))


def greedy_limit(mdp: TabularMDP, features: Tensor, theta: Tensor) -> Tensor:
    """The policy of argmax_a f(s, a), which `natural_ascent` tends to: [..., S, A]."""
    policy = log_linear_policy(features, theta)
    score = log_linear_score(features, policy)
    return greedy_policy(compatible_values(compatible_weights(mdp, policy, score), score))
