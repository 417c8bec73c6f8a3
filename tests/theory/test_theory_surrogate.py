"""The performance-difference identity, and the surrogate's agreement with the return to first
order.
"""

import pytest
import torch
from theory_cases import GAMMAS, random_case, relative

from trpo_fast.theory import (
    advantages,
    expected_return,
    performance_difference,
    state_distribution,
    state_values,
    surrogate,
    value_surrogate,
)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_performance_difference_identity(gamma: float) -> None:
    case = random_case(gamma)
    gap = expected_return(case.mdp, case.new) - expected_return(case.mdp, case.old)
    assert relative(performance_difference(case.mdp, case.old, case.new), gap) < 1e-10


@pytest.mark.parametrize("gamma", GAMMAS)
def test_surrogate_agrees_in_value_and_gradient(gamma: float) -> None:
    case = random_case(gamma)
    assert (
        relative(surrogate(case.mdp, case.old, case.old), expected_return(case.mdp, case.old))
        < 1e-12
    )
    logits = case.old.log().requires_grad_()
    (of_return,) = torch.autograd.grad(expected_return(case.mdp, logits.softmax(-1)).sum(), logits)
    (of_surrogate,) = torch.autograd.grad(
        surrogate(case.mdp, case.old, logits.softmax(-1)).sum(), logits
    )
    assert of_return.abs().amax((-2, -1)).min() > 1e-4
    assert relative(of_surrogate, of_return) < 1e-10


@pytest.mark.parametrize("gamma", GAMMAS)
def test_q_in_place_of_a_adds_what_no_policy_changes(gamma: float) -> None:
    case = random_case(gamma)
    here = expected_return(case.mdp, case.old)
    visits = state_distribution(case.mdp, case.old) / (1 - gamma)
    constant = (visits * state_values(case.mdp, case.old)).sum(-1)
    for new in (case.old, case.new):
        gain = surrogate(case.mdp, case.old, new) - here
        assert relative(value_surrogate(case.mdp, case.old, new) - gain, constant) < 1e-12
    assert constant.abs().min() > 1e-4


def test_the_gradient_of_the_ratios_is_that_of_the_log_probabilities() -> None:
    """At pi' = pi, where the importance weights are 1 and cancel."""
    case = random_case(0.9)
    logits = case.old.log().requires_grad_()
    rows = state_distribution(case.mdp, case.old).unsqueeze(-1) * case.old
    rows = rows * advantages(case.mdp, case.old)
    by_ratio = (rows * logits.softmax(-1) / case.old).sum()
    by_log = (rows * logits.log_softmax(-1)).sum()
    ours, wanted = (torch.autograd.grad(value, logits)[0] for value in (by_ratio, by_log))
    assert wanted.abs().max() > 1e-2 and relative(ours, wanted) < 1e-12


def test_surrogate_departs_at_second_order() -> None:
    case = random_case(0.9)
    direction = case.new - case.old

    def error(step: float) -> torch.Tensor:
        moved = case.old + step * direction
        return (expected_return(case.mdp, moved) - surrogate(case.mdp, case.old, moved)).abs()

    ratio = error(2e-3) / error(1e-3)
    assert error(1e-3).min() > 0 and float((ratio - 4).abs().median()) < 0.05
