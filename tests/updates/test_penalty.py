"""kl_penalty_update and pg_update: the penalised step, lambda's rules, plain gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import Case
from exactness import relative_error
from sampler_cases import moved

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


def kls_of(penalty, updates, **options):
    """The KL of each of so many updates, on batches of three policies in turn."""
    kls = []
    for seed in range(updates):
        case = Case(rows=129, seed=seed % 3)
        policy = case.policy()
        info = kl_penalty_update(policy, case.batch(policy), penalty, damping=1e-3, **options)
        kls.append(info.kl)
    return torch.tensor(kls)


@pytest.mark.parametrize(
    ("rule", "start"),
    [("adaptive", 1e-2), ("adaptive", 1.0), ("adaptive", 300.0), ("dual", 1.0), ("dual", 20.0)],
)
def test_lambda_finds_the_trust_region_over_the_updates(rule, start):
    """One move of lambda an update: KLs within 20 % of the target on average."""
    kls = kls_of(Penalty(start, rule=rule, target_kl=0.01, rate=0.1), 45, rounds=1)
    assert float(kls[-9:].mean()) == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("inner", ["natural", "adam"])
@pytest.mark.parametrize("start", [1e-2, 1.0, 300.0])
@pytest.mark.parametrize("rate", [0.2, 0.5, 10.0])
def test_the_dual_is_solved_on_every_batch(start, rate, inner):
    """theta and lambda in turns: each update's KL is within 20 % of the target, from the first."""
    adam = {"adam_steps": 60, "learning_rate": 3e-3} if inner == "adam" else {}
    penalty = Penalty(start, rule="dual", target_kl=0.01, rate=rate)
    kls = kls_of(penalty, 3, inner=inner, rounds=30, tolerance=0.2, **adam)
    assert (kls / 0.01).tolist() == pytest.approx([1.0] * 3, rel=0.2)
    assert penalty.min_value < penalty.value < penalty.max_value


@pytest.mark.parametrize("head", ["gaussian", "categorical", "bernoulli", "beta"])
@pytest.mark.parametrize("start", [1e-6, 1e-3, 1.0, 1e6])
def test_the_default_number_of_turns_is_enough_from_anywhere(start, head):
    for target, dtype in ((1e-4, torch.float64), (0.01, torch.float32), (0.1, torch.float64)):
        case = Case(head, rows=129, dtype=dtype)
        policy, penalty = case.policy(), Penalty(start, rule="dual", target_kl=target)
        info = kl_penalty_update(policy, case.batch(policy), penalty)
        assert info.kl == pytest.approx(target, rel=0.2), (target, penalty.value)


@pytest.mark.parametrize("rate", [0.5, 1.0, 10.0])
def test_no_rate_throws_lambda_to_its_floor(rate):
    """One turn a batch at a rate far too high: the KL stays within a factor of the batches'."""
    penalty = Penalty(20.0, rule="dual", target_kl=0.01, rate=rate)
    kls = kls_of(penalty, 30, rounds=1)[6:] / 0.01
    assert float(kls.min()) > 0.3 and float(kls.max()) < 3.0 and 1.0 < penalty.value < 100.0


def test_a_solved_dual_is_the_trust_region_of_the_quadratic_model():
    """lambda = sqrt(x'Fx / (2 target_kl)), and the step that comes with it."""
    policy, batch = setup()
    theta, g = flat_params(policy).clone(), gradient(policy, batch)
    F = FisherOperator(policy, batch.obs, damping=0.0).dense()
    x = torch.linalg.solve(F + 0.1 * torch.eye(len(F)), g)
    exact = {"cg_iterations": 400, "cg_tol": 1e-12, "damping": 0.1}
    penalty = Penalty(1.0, rule="dual", target_kl=1e-6)
    info = kl_penalty_update(policy, batch, penalty, rounds=40, tolerance=1e-6, **exact)
    assert info.backtracks == 0 and info.kl == pytest.approx(1e-6, rel=1e-5)
    wanted = float(x @ F @ x / 2e-6) ** 0.5
    assert penalty.value == pytest.approx(wanted, rel=5e-3)
    assert relative_error(flat_params(policy) - theta, x / wanted) < 5e-3


def test_turns_begin_at_the_parameters_of_the_call():
    """What is reported is the KL from there, and one turn at the found lambda gives it again."""
    policy, batch = setup()
    twin, _ = setup()
    turns = kl_penalty_update(policy, batch, Penalty(rule="dual"))
    value = 0.8**turns.backtracks / turns.step_size
    once = kl_penalty_update(twin, batch, Penalty(value, rule="fixed"))
    assert turns.kl == pytest.approx(once.kl, rel=1e-9)
    assert relative_error(flat_params(policy), flat_params(twin)) < 1e-9


def test_penalty_rules_by_hand():
    adaptive = Penalty(4.0, target_kl=0.01)
    adaptive.adjust(0.02)
    assert adaptive.value == 8.0
    adaptive.adjust(0.005)
    adaptive.adjust(0.01)
    assert adaptive.value == 4.0
    dual = Penalty(1.0, rule="dual", target_kl=0.01, rate=0.5)
    dual.adjust(0.04)
    assert dual.value == pytest.approx(2.0)
    dual.adjust(float("nan"))
    assert dual.value == pytest.approx(2.0)
    dual.adjust(0.0)
    assert dual.value == pytest.approx(0.2)
    fresh = Penalty(rule="dual")
    fresh.load_state_dict(dual.state_dict())
    assert fresh.value == dual.value


BAD_PENALTIES = [
    {"value": 0.0},
    {"rule": "greedy"},
    {"target_kl": -1.0},
    {"rate": float("nan")},
    {"min_value": 0.0},
    {"max_value": 0.5, "min_value": 1.0},
]


@pytest.mark.parametrize("options", BAD_PENALTIES)
def test_bad_penalties_are_refused(options):
    """When one is made, and when an update meets one that was spoiled since."""
    sentence = f"^{next(iter(options))}: expected .+, got .+"
    with pytest.raises(ValueError, match=sentence):
        Penalty(**options)
    (policy, batch), penalty = setup(), Penalty()
    before = flat_params(policy).clone()
    for name, value in options.items():
        setattr(penalty, name, value)
    with pytest.raises(ValueError, match=sentence):
        kl_penalty_update(policy, batch, penalty)
    assert torch.equal(flat_params(policy), before)


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


class Replacing(torch.optim.Optimizer):
    """A step that gives every parameter new memory, as some optimisers of others do."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data = p.detach().add(p.grad, alpha=-group["lr"])


def test_an_optimizer_that_replaces_memory_takes_the_same_step():
    policy, batch = setup()
    twin, _ = setup()
    flat = flat_params(policy)
    expected = pg_update(twin, batch, optimizer=torch.optim.SGD(twin.parameters(), lr=0.2))
    info = pg_update(policy, batch, optimizer=Replacing(policy.parameters(), 0.2))
    assert info.kl > 0 and torch.equal(info.stats, expected.stats)
    assert torch.equal(flat_params(policy), flat_params(twin))
    assert flat_params(policy).data_ptr() == flat.data_ptr()


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, Replacing])
@pytest.mark.parametrize("spoiled", [False, True])
def test_nothing_else_that_the_optimizer_holds_moves(optimizer, spoiled):
    """A critic in the same optimiser, with a gradient of its own."""
    (policy, batch), critic = setup(), torch.nn.Linear(5, 1).double()
    critic(batch.obs).sum().backward()
    before = [(p.detach().clone(), p.grad.clone()) for p in critic.parameters()]
    theta = flat_params(policy).clone()
    if spoiled:
        batch = replace(batch, advantages=torch.full_like(batch.advantages, torch.nan))
    both = optimizer([*policy.parameters(), *critic.parameters()], lr=1e-3)
    info = pg_update(policy, batch, optimizer=both, sync=False)
    assert info.accepted != spoiled and torch.equal(flat_params(policy), theta) == spoiled
    for p, (value, gradient) in zip(critic.parameters(), before, strict=True):
        assert torch.equal(p, value) and torch.equal(p.grad, gradient)


class Shrinking(Replacing):
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.data = p.detach()[:1].clone()


def test_an_optimizer_that_changes_a_size_moves_nothing():
    policy, batch = setup()
    theta = flat_params(policy).clone()
    with pytest.raises(ValueError, match=r"^optimizer: expected a step that keeps the policy"):
        pg_update(policy, batch, optimizer=Shrinking(policy.parameters(), 0.1))
    assert torch.equal(flat_params(policy), theta)


def objective(m, multiplier):
    """surrogate - lambda KL of the policy as it is, by hand."""
    with torch.no_grad():
        log_probs = m.policy(m.batch.obs).log_prob(m.batch.actions)
    value = ((log_probs - m.batch.log_probs).exp() * m.batch.advantages).mean()
    return float(value) - multiplier * m.mean(m.kl())


@pytest.mark.parametrize("inner", ["natural", "adam"])
@pytest.mark.parametrize("multiplier", [2.0, 4.0])
def test_from_a_sampler_the_objective_begins_at_its_kl(inner, multiplier):
    m = moved(Case(rows=129))
    before = objective(m, multiplier)
    penalty = Penalty(multiplier, rule="fixed")
    info = kl_penalty_update(m.policy, m.batch, penalty, inner=inner, adam_steps=3)
    assert info.accepted and info.kl_from == "sampler"
    after = info.surrogate_after - multiplier * info.kl
    assert after == pytest.approx(objective(m, multiplier), rel=1e-9) and after > before


def test_from_a_sampler_the_step_is_what_its_kl_leaves():
    m = moved(Case(rows=129))
    begin = m.mean(m.kl())
    info = kl_penalty_update(m.policy, m.batch, Penalty(4.0, rule="fixed"))
    first = 1.0 / 4.0 - (2.0 * begin / info.quad) ** 0.5
    assert info.accepted and info.step_size == pytest.approx(first * 0.8**info.backtracks)


@pytest.mark.parametrize("rule", ["fixed", "adaptive"])
def test_a_penalty_that_has_gone_far_enough_moves_nothing(rule):
    """The quadratic model's maximum is behind the call; lambda still learns from the KL there."""
    m = moved(Case(rows=129))
    before, begin = flat_params(m.policy).clone(), m.mean(m.kl())
    penalty = Penalty(1e4, rule=rule, target_kl=10.0 * begin)
    info = kl_penalty_update(m.policy, m.batch, penalty)
    assert info.reason == "at_kl_limit" and info.step_size == 0
    assert info.kl == pytest.approx(begin, rel=1e-9)
    assert torch.equal(before, flat_params(m.policy))
    assert penalty.value == (1e4 if rule == "fixed" else 5e3)
