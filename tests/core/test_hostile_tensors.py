"""Tensors that are not what they seem: made under another default device or dtype, with a negation
put off, without rows, without memory. The numbers are those of plain tensors, to the bit, or a
sentence says what was expected.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy
import pytest
import torch
from cuda_support import EMULATED, schedule, why_not
from refusals import refuses
from stage_runs import MOVING, ROWS, WORK, Hide, critic_of, made
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from trpo_fast import (
    TRPO,
    Categorical,
    FisherOperator,
    MLPPolicy,
    evaluate,
    flat_params,
    trpo_update,
)
from trpo_fast.backends.registry import registry
from trpo_fast.learner.actor import ActTensors
from trpo_fast.learner.actor_cpu import NativeActor

pytestmark = pytest.mark.attack


@pytest.fixture(params=registry())
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if name == "cuda":
        if reason := why_not():
            pytest.skip(reason)
        if EMULATED:
            monkeypatch.setenv("TRPO_FAST_EMULATE", "1")
            schedule()
    elif why := registry()[name].machine_support().why_not:
        pytest.skip(why)
    return name


works = pytest.mark.parametrize("work", WORK)


@contextlib.contextmanager
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


DEFAULTS: dict[str, Callable[[], Any]] = {
    "meta": lambda: torch.device("meta"),
    "float64": float64_by_default,
}


def equal(got: list[Tensor], expected: list[Tensor]) -> None:
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert (a.dtype, a.device) == (b.dtype, b.device), i
        assert torch.equal(a, b), i


@works
@pytest.mark.parametrize("default", DEFAULTS)
def test_torchs_defaults_change_nothing(work, default, backend):
    """A policy and tensors on the CPU while torch makes new ones elsewhere or in float64."""
    expected = WORK[work](backend, lambda x: x)()
    run = WORK[work](backend, lambda x: x)
    with DEFAULTS[default]():
        got = run()
    equal(got, expected)


def negated(x: Tensor) -> Tensor:
    """x as a view of -x that torch negates when it reads it."""
    return torch._neg_view(-x)


def spread(x: Tensor) -> Tensor:
    """x as every second number of a tensor that holds others between, negation put off."""
    gaps = torch.stack([-x, torch.full_like(x, 77)], -1)
    return torch._neg_view(gaps)[..., 0]


@works
@pytest.mark.parametrize("hide", [negated, spread])
def test_a_negation_put_off_is_not_forgotten(work, hide, backend):
    equal(WORK[work](backend, hide)(), WORK[work](backend, lambda x: x)())


def test_parameters_with_a_negation_put_off(backend):
    policy, batch = made(MOVING, backend, lambda x: x)
    expected = FisherOperator(policy, batch.obs, backend=backend) @ flat_params(policy)
    memory, offset = negated(flat_params(policy).clone()), 0
    for p in policy.parameters():  # one after the other in one piece, as the flat vector wants them
        p.data = memory[offset : offset + p.numel()].view(p.shape)
        offset += p.numel()
    found = FisherOperator(policy, batch.obs, backend=backend) @ flat_params(policy)
    equal([found], [expected])


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
@pytest.mark.parametrize("name", ActTensors._fields)
def test_what_an_actor_keeps_may_not_be_negated(name, backend):
    """It reads and writes where they lie, so that no copy would do."""
    policy, batch = made(MOVING, backend, lambda x: x)
    if name == "mask":
        pytest.skip("torch does not negate bool")
    log_probs, values = torch.empty(2, ROWS)
    seen = torch.empty_like(batch.obs)
    given = ActTensors(batch.obs, None, torch.empty_like(batch.actions), log_probs, values, seen)
    given = given._replace(**{name: negated(getattr(given, name))})
    actor = NativeActor(policy, critic_of(backend))
    refuses(name, policy, lambda: actor.act(given))


def freed(x: Tensor) -> Tensor:
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


def fake(x: Tensor) -> Tensor:
    return FakeTensorMode().from_tensor(x)


def nested(x: Tensor) -> Tensor:
    return torch.nested.nested_tensor(list(x))


EMPTY: dict[str, Hide] = {
    "sparse": lambda x: x.to_sparse(),
    "mkldnn": lambda x: x.to_mkldnn(),
    "zero": lambda x: torch._efficientzerotensor(x.shape),
    "meta": lambda x: x.to("meta"),
    "fake": fake,
    "nested": nested,
    "freed": freed,
}


@pytest.mark.filterwarnings("ignore:.*nested tensors.*")
@pytest.mark.parametrize("backend", ["cpu", "reference"], indirect=True)
@pytest.mark.parametrize("name", ["obs", "actions", "advantages", "log_probs", "weights"])
@pytest.mark.parametrize("form", EMPTY)
def test_tensors_without_rows_in_memory_are_refused_by_name(form, name, backend):
    policy, batch = made(MOVING, backend, lambda x: x)
    value = getattr(batch, name)
    if (form, value.ndim) == ("nested", 1):
        value = value.unsqueeze(-1)
    bad = replace(batch, **{name: EMPTY[form](value)})
    refuses(name, policy, lambda: trpo_update(policy, bad, backend=backend))


class Scaled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = torch.nn.Linear(5, 3)

    def forward(self, obs: Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Normal(self.map(obs), 1.0, validate_args=False)


@pytest.mark.parametrize("form", ["sparse", "mkldnn", "meta", "fake", "freed"])
def test_a_custom_modules_observations_need_memory_too(form):
    policy, (_, batch) = Scaled(), made(MOVING, "cpu", lambda x: x)
    bad = replace(batch, obs=EMPTY[form](batch.obs))
    refuses("obs", policy, lambda: trpo_update(policy, bad))


@pytest.mark.parametrize("form", ["sparse", "meta", "fake", "freed"])
def test_vectors_and_a_critics_rows_need_memory_too(form, backend):
    policy, batch = made(MOVING, backend, lambda x: x)
    F = FisherOperator(policy, batch.obs, backend=backend)
    bad = EMPTY[form](flat_params(policy).clone())
    refuses("v", policy, lambda: F @ bad)
    refuses("g", policy, lambda: F.solve(bad))
    critic, targets = critic_of("reference"), torch.zeros(ROWS)
    with pytest.raises(ValueError, match=r"^obs: expected .*, got "):
        critic.fit(EMPTY[form](torch.zeros(ROWS, 5)), targets)
    with pytest.raises(ValueError, match=r"^targets: expected .*, got "):
        critic.fit(torch.zeros(ROWS, 5), EMPTY[form](targets))


def test_a_policy_without_values_is_refused():
    policy, batch = made(MOVING, "cpu", lambda x: x)
    hollow = policy.to("meta")
    hidden = replace(batch, obs=batch.obs.to("meta"))
    with pytest.raises(ValueError, match=r"^policy: expected a tensor that holds values, got "):
        FisherOperator(hollow, hidden.obs)
    with pytest.raises(ValueError, match=r"^policy: expected a tensor that holds values, got "):
        trpo_update(hollow, hidden)


def test_an_update_of_real_tensors_in_a_fake_tensor_mode_is_refused():
    policy, batch = made(MOVING, "cpu", lambda x: x)
    before = [p.detach().clone() for p in policy.parameters()]
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(ValueError, match="expected"):
        trpo_update(policy, batch)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


INDICES = {
    "far": [0, 2**40],
    "negative": [-(2**40), 3],
    "next": [0, ROWS],
    "lowest": [-(2**63), 0],
    "highest": [0, 2**63 - 1],
}


@pytest.mark.parametrize("indices", INDICES)
def test_indices_that_are_no_rows_become_a_reason_without_sync(indices, backend, monkeypatch):
    """Where nothing is asked of the device, whoever uses an index looks at it first."""
    if EMULATED:
        monkeypatch.setenv("TRPO_FAST_EMULATE", "1")
    policy, batch = made(MOVING, backend, lambda x: x)
    before, index = flat_params(policy).clone(), torch.tensor(INDICES[indices]).to(batch.obs.device)
    info = trpo_update(policy, batch, fvp_rows=index, sync=False, backend=backend)
    assert info.reason == "bad_values" and torch.equal(flat_params(policy), before)
    if backend != "cuda":  # more of them than rows, which no other test of the CPU core gives
        many = torch.zeros(5 * ROWS, dtype=torch.int64)
        info = trpo_update(policy, batch, fvp_rows=many, sync=False, backend=backend)
        assert info.reason == "bad_values" and torch.equal(flat_params(policy), before)


AGENTS: dict[str, dict[str, Any]] = {
    "host": {"engine": "sync", "normalize_observations": True},
    "tensor": {"engine": "tensor"},
    "vine": {"engine": "sync", "sampling": "vine", "vine_states": 8, "vine_length": 5},
    "tensor vine": {"engine": "tensor", "sampling": "vine", "vine_states": 8, "vine_length": 5},
}


@pytest.mark.parametrize("kind", AGENTS)
@pytest.mark.parametrize("default", DEFAULTS)
def test_an_agent_trains_alike_under_any_default(default, kind):
    """Made, trained, asked and evaluated there: the same parameters and the same actions."""
    pytest.importorskip("gymnasium")
    sizes = {"num_envs": 2, "rows_per_update": 64, "hidden": (8,), "critic_hidden": (8,)}

    def trained() -> list[Tensor]:
        agent = TRPO("CartPole-v1", seed=4, device="cpu", **sizes, **AGENTS[kind])
        agent.learn(128)
        action = agent.predict([0.1, 0.2, 0.3, 0.4], deterministic=True)
        returns = evaluate(agent, episodes=2).returns
        agent.close()
        found = (flat_params(agent.policy), agent.critic.theta)
        return [*found, torch.from_numpy(numpy.array([action, *returns], "f8"))]

    expected = trained()
    with DEFAULTS[default]():
        got = trained()
    equal(got, expected)


def test_explicit_devices_and_dtypes_draw_the_same_numbers():
    def drawn(**options: Any) -> list[Tensor]:
        torch.manual_seed(6)
        return [flat_params(MLPPolicy(5, Categorical(3), (8,), **options)).double()]

    expected = drawn()
    for default in DEFAULTS.values():
        with default():
            single, double = (drawn(device="cpu", dtype=d) for d in (torch.float32, torch.float64))
        equal(single, expected)
        equal(double, expected)
