"""Minorise-maximise on tables: exact maximisers, and returns that never fall."""

from dataclasses import replace

import pytest
import torch
from theory_cases import SEEDS, at_least, random_case, relative

from trpo_fast.theory import (
    advantages,
    expected_return,
    greedy_policy,
    kl_divergence,
    lower_bounds,
    max_kl,
    minorise_maximise,
    minorise_maximise_step,
    minoriser_gain,
    policy_iteration,
    random_mdp,
    stack,
)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9])
def test_returns_never_fall_and_rise_at_least_as_promised(gamma: float) -> None:
    case = random_case(gamma)
    trace = minorise_maximise(case.mdp, case.old, iterations=5)
    gained = trace.returns.diff(dim=0)
    assert at_least(gained, trace.guaranteed)
    assert bool((trace.guaranteed > 0).all()) and bool((gained > 0).all())
    assert relative(trace.policies.sum(-1), torch.ones(())) < 1e-12 and trace.policies.min() > 0


@pytest.mark.parametrize("gamma", [0.1, 0.9])
def test_the_step_maximises_the_minoriser(gamma: float) -> None:
    """No other policy does better: random ones nearby, and along the curve that leads there."""
    case = random_case(gamma)
    step = minorise_maximise_step(case.mdp, case.old)
    assert relative(step.guaranteed, minoriser_gain(case.mdp, case.old, step.policy)) < 1e-14
    generator = torch.Generator().manual_seed(0)
    radius = max_kl(case.old, step.policy).sqrt()[..., None, None]
    for scale in (0.01, 0.1, 0.3):
        for _ in range(30):
            noise = torch.randn(case.old.shape, generator=generator, dtype=torch.float64)
            rival = (step.policy.log() + scale * radius * noise).softmax(-1)
            assert at_least(step.guaranteed, minoriser_gain(case.mdp, case.old, rival), 1e-12)
    for fraction in (0.5, 0.9, 1.1):
        rival = (case.old.log() + fraction * (step.policy / case.old).log()).softmax(-1)
        assert bool((minoriser_gain(case.mdp, case.old, rival) < step.guaranteed).all())


def test_the_minoriser_is_the_kl_lower_bound() -> None:
    case = random_case(0.9)
    bound = lower_bounds(case.mdp, case.old, case.new).kl - expected_return(case.mdp, case.old)
    assert relative(minoriser_gain(case.mdp, case.old, case.new), bound) < 1e-12
    assert minoriser_gain(case.mdp, case.old, case.old).abs().max() < 1e-10


def test_all_states_share_the_radius() -> None:
    """The penalty is on the largest KL, so at the maximum every state uses all of it."""
    case = random_case(0.9)
    kl = kl_divergence(case.old, minorise_maximise_step(case.mdp, case.old).policy)
    assert float((kl / kl.amax(-1, keepdim=True)).min()) > 1 - 1e-4


def test_without_a_future_the_step_is_greedy_and_without_advantage_it_stays() -> None:
    case = random_case(0.0)
    step = minorise_maximise_step(case.mdp, case.old)
    assert relative(step.policy, greedy_policy(advantages(case.mdp, case.old))) < 1e-9
    even = replace(random_case(0.9).mdp, rewards=torch.zeros_like(case.mdp.rewards))
    idle = minorise_maximise_step(even, case.old)
    assert relative(idle.policy, case.old) < 1e-12 and idle.guaranteed.abs().max() < 1e-12


def test_improvements_are_finitely_many_and_reach_the_optimum() -> None:
    """Gains of at least t happen at most (eta* - eta_0) / t times; here they soon get there."""
    processes = [random_mdp(3, 2, 0.1, seed) for seed in SEEDS]
    mdp = stack(processes)
    trace = minorise_maximise(mdp, torch.full((64, 3, 2), 0.5, dtype=torch.float64), iterations=20)
    optimum = torch.stack([expected_return(one, policy_iteration(one)[-1]) for one in processes])
    room = optimum - trace.returns[0]
    for threshold in (0.1, 0.01, 0.001):
        assert at_least(room / threshold, (trace.returns.diff(dim=0) >= threshold).sum(0))
    assert at_least(optimum, trace.returns)
    assert float(((optimum - trace.returns[-1]) / room).median()) < 0.1
