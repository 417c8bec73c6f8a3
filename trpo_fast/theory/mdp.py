"""Exact tabular Markov decision processes: values, visits and returns by linear algebra.

Reads transitions, rewards and a policy; writes V, Q, A, state distributions and returns. Nothing
is sampled. S states, A actions; every function broadcasts over leading dimensions `...`, so a stack
of many processes is evaluated in one call. A policy is a table of probabilities [..., S, A].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TabularMDP:
    """A finite process: transitions [..., S, A, S], rewards [..., S, A], initial [..., S].

    gamma is below 1, where every return is finite; `average` has the objective without a discount.
    """

    transitions: Tensor
    rewards: Tensor
    initial: Tensor
    gamma: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma < 1.0:
            raise ValueError(f"gamma: expected a number in [0, 1), got {self.gamma}")
        *batch, states, actions, successors = self.transitions.shape
        expected = {"rewards": [*batch, states, actions], "initial": [*batch, states]}
        if successors != states:
            raise ValueError(
                f"transitions: expected [..., S, A, S], got {[*self.transitions.shape]}"
            )
        for name, shape in expected.items():
            got = [*getattr(self, name).shape]
            if got != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {got}")
        for name in ("transitions", "initial"):
            table = getattr(self, name)
            if not bool((table >= 0).all()) or not torch.allclose(
                table.sum(-1), table.new_ones(())
            ):
                raise ValueError(
                    f"{name}: expected probabilities that sum to 1 over the last dimension"
                )

    @property
    def states(self) -> int:
        """S."""
        return self.rewards.shape[-2]

    @property
    def actions(self) -> int:
        """A."""
        return self.rewards.shape[-1]


def random_mdp(states: int, actions: int, gamma: float, seed: int) -> TabularMDP:
    """Draw an MDP: Dirichlet(1) transitions and initial distribution, standard normal rewards."""
    generator = torch.Generator().manual_seed(seed)

    def dirichlet(*shape: int) -> Tensor:
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
        exponential = -torch.log1p(-uniform)
        return exponential / exponential.sum(-1, keepdim=True)

    rewards = torch.randn(states, actions, generator=generator, dtype=torch.float64)
    return TabularMDP(dirichlet(states, actions, states), rewards, dirichlet(states), gamma)


def stack(mdps: Sequence[TabularMDP]) -> TabularMDP:
    """Stack processes of equal size and discount along a new first dimension."""
    gammas = {mdp.gamma for mdp in mdps}
    if len(gammas) != 1:
        raise ValueError(f"mdps: expected one common gamma, got {sorted(gammas)}")
    return TabularMDP(
        torch.stack([mdp.transitions for mdp in mdps]),
        torch.stack([mdp.rewards for mdp in mdps]),
        torch.stack([mdp.initial for mdp in mdps]),
        gammas.pop(),
    )


def random_policy(mdp: TabularMDP, *, seed: int, spread: float = 1.0) -> Tensor:
    """Draw soft-max policies with logits N(0, spread^2): [..., S, A]."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(mdp.rewards.shape, generator=generator, dtype=mdp.rewards.dtype)
    return (spread * logits).softmax(-1)


def state_transitions(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """P_pi(s' | s) = sum_a pi(a | s) P(s' | s, a): [..., S, S]."""
    return torch.einsum("...sa,...sat->...st", policy, mdp.transitions)


def state_values(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """V = (I - gamma P_pi)^-1 r_pi, the fixed point of Bellman's equation: [..., S]."""
    kernel = state_transitions(mdp, policy)
    identity = torch.eye(mdp.states, dtype=kernel.dtype)
    return torch.linalg.solve(identity - mdp.gamma * kernel, (policy * mdp.rewards).sum(-1))


def action_values(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """Q(s, a) = R(s, a) + gamma sum_s' P(s' | s, a) V(s'): [..., S, A]."""
    future = torch.einsum("...sat,...t->...sa", mdp.transitions, state_values(mdp, policy))
    return mdp.rewards + mdp.gamma * future


def advantages(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """A(s, a) = Q(s, a) - V(s), so that sum_a pi(a | s) A(s, a) = 0: [..., S, A]."""
    return action_values(mdp, policy) - state_values(mdp, policy).unsqueeze(-1)


def expected_return(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """eta(pi) = E[sum_t gamma^t R(s_t, a_t)] = sum_s mu(s) V(s): [...]."""
    return (mdp.initial * state_values(mdp, policy)).sum(-1)


def state_marginals(mdp: TabularMDP, policy: Tensor, horizon: int) -> Tensor:
    """P(s_t = s) for t = 0 .. horizon - 1: [..., horizon, S]."""
    kernel = state_transitions(mdp, policy)
    marginals = [mdp.initial.expand(kernel.shape[:-1])]
    for _ in range(horizon - 1):
        marginals.append(torch.einsum("...s,...st->...t", marginals[-1], kernel))
    return torch.stack(marginals, -2)


def state_distribution(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """d(s) = (1 - gamma) sum_t gamma^t P(s_t = s), which sums to 1: [..., S].

    The lecture notes' unnormalised visits are rho = d / (1 - gamma).
    """
    kernel = state_transitions(mdp, policy)
    identity = torch.eye(mdp.states, dtype=kernel.dtype)
    initial = mdp.initial.expand(kernel.shape[:-1])
    return (1 - mdp.gamma) * torch.linalg.solve((identity - mdp.gamma * kernel).mT, initial)


def greedy_policy(values: Tensor) -> Tensor:
    """The deterministic policy of argmax_a values(s, a), as a table: [..., S, A]."""
    one_hot = torch.nn.functional.one_hot(values.argmax(-1), values.shape[-1])
    return one_hot.to(values.dtype)


def policy_iteration(mdp: TabularMDP, *, tolerance: float = 1e-10) -> list[Tensor]:
    """Greedy policies [..., S, A], the last optimal: no advantage exceeds `tolerance` max |Q|.

    Each step has sum_a pi'(a | s) A_pi(s, a) >= 0 in every state, so by the performance-difference
    identity the return rises; deterministic policies are finitely many, so it ends (at most A^S
    steps; a handful here).
    """
    policies = [greedy_policy(mdp.rewards)]
    while True:
        values = action_values(mdp, policies[-1])
        gains = values - (policies[-1] * values).sum(-1, keepdim=True)
        improvable = gains.amax(-1, keepdim=True) > tolerance * values.abs().max()
        if not bool(improvable.any()):
            return policies
        policies.append(torch.where(improvable, greedy_policy(values), policies[-1]))
