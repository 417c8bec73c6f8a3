"""The update in other libraries' conventions, beside the package's own where these agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from trpo_fast import Batch, Gaussian, MLPPolicy, npg_update, trpo_update
from trpo_fast.integrations.step import (
    PolicyStep,
    Search,
    problem_of,
    search_direction,
    take_step,
    take_whole_step,
)
from trpo_fast.policy.flat import flat_params
from trpo_fast.updates.operator import FisherOperator

ROWS = 96
SETTINGS: dict[str, Any] = {"max_kl": 0.01, "damping": 0.1, "iterations": 10, "steps": 10}
BACKENDS = ["cpu", "reference"]


def policy(dtype: torch.dtype = torch.float64) -> MLPPolicy:
    torch.manual_seed(0)
    made = MLPPolicy(5, Gaussian(2), (8, 6), output_gain=1.0)
    return made.to(dtype)


def rows(made: MLPPolicy) -> Batch:
    torch.manual_seed(1)
    obs = torch.randn(ROWS, 5, dtype=torch.float64)
    advantages = torch.randn(ROWS, dtype=torch.float64)
    actions = policy()(obs).sample()
    return Batch(*(t.to(flat_params(made).dtype) for t in (obs, actions, advantages)))


def taken(made: MLPPolicy, **options: Any) -> PolicyStep:
    search = Search(**{**SETTINGS, "ratio": 0.8, "backend": "reference", **options})
    return take_step(problem_of(made, rows(made), search.damping), search)


def test_without_conditions_of_its_own_it_is_trpo_update() -> None:
    ours, theirs = policy(), policy()
    step = taken(ours)
    info = trpo_update(theirs, rows(theirs), max_kl=0.01, damping=0.1, cg_iterations=10)
    torch.testing.assert_close(flat_params(ours), flat_params(theirs), rtol=1e-9, atol=1e-11)
    assert step.success and (step.kl, step.objective) == pytest.approx(
        (info.kl, info.surrogate_after), rel=1e-8
    )
    assert (step.size, step.before) == pytest.approx(
        (info.step_size, info.surrogate_before), rel=1e-8, abs=1e-12
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_in_float32_the_kernels_take_the_same_step(backend: Any) -> None:
    ours, exact = policy(torch.float32), policy()
    step, truth = taken(ours, backend=backend), taken(exact)
    moved = [flat_params(each).double() - flat_params(policy()) for each in (ours, exact)]
    assert float((moved[0] - moved[1]).norm()) < 1e-4 * float(moved[1].norm())
    assert step.success and step.kl == pytest.approx(truth.kl, rel=1e-3)


def test_a_step_brings_the_share_that_is_asked_of_it() -> None:
    """Of g'x times what of x was taken; a first trial of half the step is the second of halves."""
    options = {"max_kl": 4.0, "ratio": 0.5}
    whole, asked = taken(policy(), **options), taken(policy(), share=0.95, **options)
    assert 0.0 < asked.size < whole.size

    def share(step: PolicyStep) -> float:
        info = trpo_update(policy(), rows(policy()), damping=0.1, cg_iterations=10)
        return (step.objective - step.before) / (step.size * info.linear_gain)

    assert share(whole) < 0.95 < share(asked)
    half = taken(policy(), first=0.5, share=0.95, **options)
    assert half.size == pytest.approx(asked.size, rel=1e-12)
    assert not taken(policy(), share=1e9, **options).success


def test_a_search_that_fails_leaves_the_policy() -> None:
    made = policy()
    step = taken(made, max_kl=50.0, steps=1)
    assert torch.equal(flat_params(made), flat_params(policy()))
    assert step == PolicyStep(step.before, 0.0, False, step.before, 0.0)


@pytest.mark.parametrize("rate", [0.1, float("nan")])
def test_a_whole_step_is_npg_update(rate: float) -> None:
    ours, theirs = policy(), policy()
    search = Search(**SETTINGS, ratio=0.8, backend="reference")
    step = take_whole_step(problem_of(ours, rows(ours), 0.1), search, rate)
    if rate == rate:
        info = npg_update(theirs, rows(theirs), learning_rate=rate, damping=0.1, cg_iterations=10)
        assert step.kl == pytest.approx(info.kl, rel=1e-8) and step.size == rate
    assert step.success is (rate == rate)
    torch.testing.assert_close(flat_params(ours), flat_params(theirs), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("scale", [1e-3, 1e-7])
def test_the_search_ends_at_a_small_residual(scale: float) -> None:
    """An absolute one, as in these libraries: small gradients take fewer products, one at least."""
    made = policy()
    operator = FisherOperator(made, rows(made).obs, damping=0.1)._operator
    products: list[Tensor] = []
    product = operator.fvp
    operator.fvp = lambda v: (products.append(v), product(v))[1]  # type: ignore[method-assign]
    torch.manual_seed(2)
    g = scale * torch.randn_like(flat_params(made))
    x, quad = search_direction(operator, g, 40)
    assert float((g - product(x)).norm()) < 1e-5 and quad > 0.0
    assert len(products) == 1 if scale < 1e-5 else 1 < len(products) < 40
