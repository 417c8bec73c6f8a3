"""The performance-difference identity, and the surrogate's agreement with the return to first
order.
"""

import pytest
import torch
from theory_cases import GAMMAS, random_case, relative

from trpo_fast.theory import expected_return, performance_difference, surrogate


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


def test_surrogate_departs_at_second_order() -> None:
    case = random_case(0.9)
    direction = case.new - case.old

    def error(step: float) -> torch.Tensor:
        moved = case.old + step * direction
        return (expected_return(case.mdp, moved) - surrogate(case.mdp, case.old, moved)).abs()

    ratio = error(2e-3) / error(1e-3)
    assert error(1e-3).min() > 0 and float((ratio - 4).abs().median()) < 0.05
