"""kl_penalty_update and pg_update: the penalised step, lambda's rules, plain gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import Case, relative_error

from trpo_fast import FisherOperator, Penalty, flat_params, kl_penalty_update, pg_update


def setup():
    policy = Case(rows=129).policy()
    return policy, Case(rows=129).batch(policy)


def gradient(policy, batch):
    value = (batch.advantages * policy(batch.obs).log_prob(batch.actions)).mean()
    parts = torch.autograd.grad(value, list(policy.parameters()))
    return torch.cat([p.reshape(-1) for p in parts])


def test_natural_step_is_the_maximiser_of_the_quadratic_model():
    policy, batch = setup()
    theta, g = flat_params(policy).clone(), gradient(policy, batch)
    F = FisherOperator(policy, batch.obs).dense()
    penalty = Penalty(50.0, rule="fixed")
    info = kl_penalty_update(policy, batch, penalty, cg_iterations=400, cg_tol=1e-12)
    assert info.accepted and penalty.value == 50.0
    expected = torch.linalg.solve(F, g) / 50.0 * 0.5**info.backtracks
    assert relative_error(flat_params(policy) - theta, expected) < 1e-7


@pytest.mark.parametrize("inner", ["natural", "adam"])
def test_penalised_objective_improves(inner):
    policy, batch = setup()
    penalty = Penalty(2.0, rule="fixed")
    info = kl_penalty_update(policy, batch, penalty, inner=inner)
    assert info.accepted
    assert info.surrogate_after - 2.0 * info.kl > info.surrogate_before


@pytest.mark.parametrize("rule", ["adaptive", "dual"])
@pytest.mark.parametrize("start", [1e-2, 1.0, 300.0])
def test_lambda_finds_the_trust_region(rule, start):
    penalty = Penalty(start, rule=rule, target_kl=0.01, rate=0.5 * start)
    kls = []
    for seed in range(40):
        case = Case(rows=129, seed=seed % 3)
        policy = case.policy()
        info = kl_penalty_update(policy, case.batch(policy), penalty, damping=1e-3)
        kls.append(info.kl)
    tail = torch.tensor(kls[-10:]).mean()
    assert (0.003 < tail < 0.03) if rule == "adaptive" else tail < 0.1


def test_penalty_rules_by_hand():
    adaptive = Penalty(4.0, target_kl=0.01)
    adaptive.observe(0.02)
    assert adaptive.value == 8.0
    adaptive.observe(0.005)
    adaptive.observe(0.01)
    assert adaptive.value == 4.0
    dual = Penalty(1.0, rule="dual", target_kl=0.01, rate=0.5)
    dual.observe(0.03)
    assert dual.value == pytest.approx(2.0)
    dual.observe(float("nan"))
    fresh = Penalty(rule="dual")
    fresh.load_state_dict(dual.state_dict())
    assert fresh.value == dual.value


@pytest.mark.parametrize("options", [{"value": 0.0}, {"rule": "greedy"}, {"target_kl": -1.0}])
def test_bad_penalties_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Penalty(**options)


def test_policy_gradient_steps():
    policy, batch = setup()
    theta, g = flat_params(policy).clone(), gradient(policy, batch)
    info = pg_update(policy, batch, learning_rate=0.1)
    assert info.accepted and relative_error(flat_params(policy) - theta, 0.1 * g) < 1e-12
    flat_params(policy).copy_(theta)
    pg_update(policy, batch, learning_rate=1.0, max_grad_norm=1e-3)
    assert float((flat_params(policy) - theta).norm()) == pytest.approx(1e-3, rel=1e-6)


def test_policy_gradient_with_an_optimizer():
    policy, batch = setup()
    theta, g = flat_params(policy).clone(), gradient(policy, batch)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.2)
    assert pg_update(policy, batch, optimizer=optimizer).accepted
    assert relative_error(flat_params(policy) - theta, 0.2 * g) < 1e-12


def test_a_runaway_step_is_not_taken():
    policy, batch = setup()
    theta = flat_params(policy).clone()
    info = pg_update(policy, batch, learning_rate=1e300)
    assert info.reason == "non_finite" and torch.equal(flat_params(policy), theta)


def test_lambda_stays_where_nothing_was_tried():
    policy, batch = setup()
    penalty = Penalty(2.0)
    idle = replace(batch, advantages=torch.zeros_like(batch.advantages))
    broken = replace(batch, advantages=torch.full_like(batch.advantages, torch.inf))
    assert kl_penalty_update(policy, idle, penalty).reason == "zero_gradient"
    assert kl_penalty_update(policy, broken, penalty, sync=False).reason == "bad_values"
    assert penalty.value == 2.0


def test_an_optimizer_survives_a_gradient_that_is_not_finite():
    policy, batch = setup()
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    before = flat_params(policy).clone()
    broken = replace(batch, advantages=torch.full_like(batch.advantages, torch.nan))
    assert pg_update(policy, broken, optimizer=optimizer, sync=False).reason == "bad_values"
    assert torch.equal(flat_params(policy), before)
    assert all(p.grad is None for p in policy.parameters())
    assert pg_update(policy, batch, optimizer=optimizer).accepted
