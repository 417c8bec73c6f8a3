"""The identity behind trust regions, and the surrogate that drops one term of it.

Reads an MDP, the old policy pi and a new policy pi'; writes both sides of
eta(pi') = eta(pi) + sum_s rho_pi'(s) Abar(s)   and   L_pi(pi') = eta(pi) + sum_s rho_pi(s) Abar(s).
They differ only in whose state visits weigh the advantages.
"""

from torch import Tensor

from .mdp import TabularMDP, action_values, advantages, expected_return, state_distribution


def expected_advantage(mdp: TabularMDP, old: Tensor, new: Tensor) -> Tensor:
    """Abar(s) = sum_a pi'(a | s) A_pi(s, a), zero when pi' = pi: [..., S]."""
    return (new * advantages(mdp, old)).sum(-1)


def performance_difference(mdp: TabularMDP, old: Tensor, new: Tensor) -> Tensor:
    """E_{tau ~ pi'}[sum_t gamma^t A_pi(s_t, a_t)] = eta(pi') - eta(pi): [...].

    Kakade and Langford (2002), lemma 6.1: the sum of A = r + gamma V(s') - V(s) telescopes to
    -V(s_0), and s_0 does not depend on the policy.
    """
    visits = state_distribution(mdp, new) / (1 - mdp.gamma)
    return (visits * expected_advantage(mdp, old, new)).sum(-1)


def surrogate(mdp: TabularMDP, old: Tensor, new: Tensor) -> Tensor:
    """L_pi(pi') = eta(pi) + sum_s rho_pi(s) sum_a pi'(a | s) A_pi(s, a): [...].

    Schulman et al. (2015), equation 3. It equals eta at pi' = pi, in value and in gradient: the
    derivative of the visits, which L leaves out, multiplies Abar, and Abar is zero at pi. The
    visits do depend on the parameters; it is not that their derivative is zero.
    """
    visits = state_distribution(mdp, old) / (1 - mdp.gamma)
    return expected_return(mdp, old) + (visits * expected_advantage(mdp, old, new)).sum(-1)


def value_surrogate(mdp: TabularMDP, old: Tensor, new: Tensor) -> Tensor:
    """sum_s rho_pi(s) sum_a pi'(a | s) Q_pi(s, a), the surrogate with Q in place of A: [...].

    It exceeds `surrogate` - eta(pi) by sum_s rho_pi(s) V_pi(s), which does not depend on pi': the
    same policies maximise both.
    """
    visits = state_distribution(mdp, old) / (1 - mdp.gamma)
    return (visits * (new * action_values(mdp, old)).sum(-1)).sum(-1)
