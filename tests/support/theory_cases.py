"""Random tabular MDPs for the theory tests: 64 seeds in one stack, evaluated at once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trpo_fast.theory import TabularMDP, random_mdp, random_policy, stack

SEEDS = range(64)
GAMMAS = (0.0, 0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Case:
    mdp: TabularMDP
    old: Tensor
    new: Tensor


def random_case(gamma: float, *, states: int = 5, actions: int = 3, closeness: float = 0.0) -> Case:
    """64 MDPs with two policies each; `closeness` in [0, 1) pulls the new one towards the old."""
    mdp = stack([random_mdp(states, actions, gamma, seed) for seed in SEEDS])
    old, new = random_policy(mdp, seed=1), random_policy(mdp, seed=2, spread=2.0)
    return Case(mdp, old, closeness * old + (1 - closeness) * new)


def relative(got: Tensor, expected: Tensor) -> float:
    """Largest |got - expected| over the largest |expected|, at least 1."""
    return float((got - expected).abs().max() / expected.abs().max().clamp_min(1))


def at_least(larger: Tensor, smaller: Tensor, slack: float = 1e-10) -> bool:
    """larger >= smaller everywhere, up to rounding relative to their size."""
    scale = torch.maximum(larger.abs(), smaller.abs()).clamp_min(1)
    return bool((larger >= smaller - slack * scale).all())
