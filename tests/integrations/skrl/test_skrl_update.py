"""``update()`` in the place of skrl's: the same step and fit, where skrl's line search is right."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

pytest.importorskip("skrl")

from skrl.agents.torch.trpo import TRPO as SkrlTRPO
from skrl.agents.torch.trpo import trpo as theirs_module
from skrl.resources.preprocessors.torch import RunningStandardScaler
from skrl.utils.model_instantiators.torch import gaussian_model
from skrl_cases import ACTIONS, BOX, CHOICE, OBS, OBSERVATIONS, Choice, Policy, agent
from torch import Tensor, nn

from trpo_fast.integrations.skrl import TRPO
from trpo_fast.integrations.skrl import trpo as module
from trpo_fast.integrations.skrl.parts import ActorModule
from trpo_fast.policy.net import MLPPolicy

SCALER = {"observation_preprocessor": RunningStandardScaler}
SCALER["observation_preprocessor_kwargs"] = {"size": OBSERVATIONS, "device": "cpu"}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The policies that were stepped here, each with its step."""
    found: list[Any] = []
    step = module._step

    def recorded(policy: Any, *given: Any) -> Any:
        found.append((policy, step(policy, *given)))
        return found[-1][1]

    monkeypatch.setattr(module, "_step", recorded)
    return found


class Squashed(Policy):
    """Whose means are within (-1, 1), written out by hand."""

    def compute(self, inputs: dict[str, Tensor], role: str = "") -> Any:
        mean, outputs = super().compute(inputs, role)
        return torch.tanh(mean), outputs


class ByHand(Policy):
    """A perceptron that does not look like one."""

    def compute(self, inputs: dict[str, Tensor], role: str = "") -> Any:
        first, _, second, _, third = self.net
        h = nn.functional.elu(first(inputs["observations"].reshape(-1, OBS)))
        return third(nn.functional.elu(second(h))), {"log_std": self.log_std_parameter}


class OwnAct(Policy):
    """With a distribution of its own."""

    def act(self, inputs: dict[str, Tensor], *, role: str = "") -> Any:
        return super().act(inputs, role=role)


def generated() -> Any:
    """What skrl's instantiator writes."""
    network = [{"name": "net", "input": "OBSERVATIONS", "layers": [8, 6], "activations": "tanh"}]
    made = gaussian_model(
        observation_space=OBSERVATIONS,
        action_space=BOX,
        device="cpu",
        network=network,
        output="ACTIONS",
    )
    made.init_state_dict(role="policy")
    return made


# Policy, configuration, whether it is for the kernels.
CASES: dict[str, tuple[Any, dict[str, Any], bool]] = {
    "defaults": (Policy, {}, True),
    "written by hand": (ByHand, {}, True),
    "generated": (generated, {}, True),
    "scaled observations": (Policy, SCALER, True),
    "damping": (Policy, {"damping": 0.3, "conjugate_gradient_steps": 4}, True),
    "shorter": (Policy, {"step_fraction": 0.5, "max_kl_divergence": 0.1}, True),
    "second trial": (Policy, {"max_kl_divergence": 0.1, "damping": 0.01}, True),
    "no limits": (lambda: Policy(clip_log_std=False), {}, True),
    "clipped actions": (lambda: Policy(clip_actions=True), {}, True),
    "leaky": (lambda: Policy(nn.LeakyReLU), {}, False),
    "squashed": (Squashed, {}, False),
    "clipped means": (lambda: Policy(clip_mean_actions=True), {}, False),
}


def updated(kind: type, policy: Any, **options: Any) -> Any:
    torch.manual_seed(4)
    made = agent(kind, policy(), **options)
    torch.manual_seed(3)
    made.update(timestep=0, timesteps=1)
    return made


@pytest.mark.parametrize("name", CASES)
def test_the_step_is_theirs(taken: list[Any], name: str) -> None:
    policy, options, for_kernels = CASES[name]
    theirs, ours = (updated(kind, policy, **options) for kind in (SkrlTRPO, TRPO))
    found, wanted = ([*made.policy.parameters()] for made in (ours, theirs))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
    ((stepped, step),) = taken
    assert step.success and isinstance(stepped, MLPPolicy if for_kernels else ActorModule)


def test_the_log_and_the_values_are_theirs() -> None:
    """With one minibatch, whose rows may come in any order."""
    theirs, ours = (updated(kind, Policy, mini_batches=1) for kind in (SkrlTRPO, TRPO))
    found, wanted = ([*made.value.parameters()] for made in (ours, theirs))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
    assert list(ours.tracking_data) == list(theirs.tracking_data)
    for key, values in theirs.tracking_data.items():
        assert ours.tracking_data[key] == pytest.approx(values, rel=1e-9, abs=1e-12), key


def gain(made: Any, start: Any) -> tuple[float, float]:
    """What the step brought, and what it should have brought to first order."""
    observations, actions, log_prob, advantages = made.memory.sample_by_index(
        names=["observations", "actions", "log_prob", "advantages"],
        indexes=torch.arange(len(made.memory)),
    )[0]

    def value(policy: Any) -> Tensor:
        return theirs_module.surrogate_loss(
            policy=policy,
            observations=observations,
            states=None,
            actions=actions,
            log_prob=log_prob,
            advantages=advantages,
        )

    slopes = torch.autograd.grad(value(start), [*start.parameters()])
    moved = zip(slopes, made.policy.parameters(), start.parameters(), strict=True)
    expected = sum(float((g * (p - q).detach()).sum()) for g, p, q in moved)
    return (value(made.policy) - value(start)).item(), expected


def test_their_accept_ratio_loses_its_meaning_from_the_third_trial_on(taken: list[Any]) -> None:
    """skrl multiplies the expected gain by every trial's share in turn, 1, 1/2, 1/8, 1/64, where
    the trials are 1, 1/2, 1/4, 1/8 of the step, and takes a step that brings too little.
    """
    options = {"max_kl_divergence": 4.0, "accept_ratio": 0.95}
    torch.manual_seed(4)
    start = copy.deepcopy(agent(TRPO, Policy()).policy)
    shares = {}
    for kind in (SkrlTRPO, TRPO):
        got, expected = gain(updated(kind, Policy, **options), start)
        shares[kind] = got / expected
    assert 0.0 < shares[SkrlTRPO] < 0.95 < shares[TRPO]
    assert len(taken) == 1 and taken[0][1].success


def test_a_step_beyond_the_limits_of_std_is_taken_as_a_module(taken: list[Any]) -> None:
    limits = {"min_log_std": -1e-9, "max_log_std": 1e-9}
    theirs, ours = (updated(kind, lambda: Policy(**limits)) for kind in (SkrlTRPO, TRPO))
    found, wanted = ([*made.policy.parameters()] for made in (ours, theirs))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
    assert [type(policy) for policy, _ in taken] == [MLPPolicy, ActorModule]


def test_categorical_policies_are_taken_too(taken: list[Any]) -> None:
    """skrl's KL has means and deviations only."""
    with pytest.raises(KeyError):
        updated(SkrlTRPO, Choice)
    made = updated(TRPO, Choice)
    ((policy, step),) = taken
    assert step.success and 0.0 < step.kl < 0.01 and policy.head.kind == "categorical"
    assert made.policy.action_space is CHOICE
    assert "Policy / Standard deviation" not in made.tracking_data


@pytest.mark.parametrize(
    "policy, words",
    [(lambda: Policy(nn.Dropout), "got Dropout at .*; skrl's own"), (OwnAct, "skrl serves it")],
)
def test_what_is_no_function_of_a_row_is_left_to_skrl(
    taken: list[Any], monkeypatch: pytest.MonkeyPatch, policy: Any, words: str
) -> None:
    made, calls = agent(TRPO, policy()), []
    monkeypatch.setattr(SkrlTRPO, "update", lambda *_, **given: calls.append(given))
    made.enable_models_training_mode(True)  # as it is whenever skrl updates
    before = copy.deepcopy(made.memory.tensors)
    with pytest.warns(UserWarning, match=words):
        made.update(timestep=3, timesteps=4)
    assert not taken and calls == [{"timestep": 3, "timesteps": 4}]
    torch.testing.assert_close(made.memory.tensors, before, equal_nan=True)


def test_a_hook_on_a_layer_is_run(taken: list[Any]) -> None:
    calls: list[int] = []
    policy = Policy()
    policy.net[0].register_forward_hook(lambda *_: calls.append(1))
    made = agent(TRPO, policy)
    calls.clear()
    made.update(timestep=0, timesteps=1)
    assert calls and type(taken[0][0]) is ActorModule


def test_a_step_that_fails_leaves_the_policy(taken: list[Any]) -> None:
    torch.manual_seed(4)
    start = copy.deepcopy(agent(TRPO, Policy()).policy)
    made = updated(TRPO, Policy, accept_ratio=1e9)
    torch.testing.assert_close(made.policy.state_dict(), start.state_dict(), rtol=0.0, atol=0.0)
    assert not taken[0][1].success and taken[0][1].kl == 0.0


def test_a_policy_in_float32_is_for_the_compiled_kernels(taken: list[Any]) -> None:
    wide = updated(TRPO, Policy)
    torch.manual_seed(4)
    made = agent(TRPO, Policy())
    made.policy.float()
    made._observation_preprocessor = lambda x, **_: None if x is None else x.float()
    made.value.float()
    tensors = made.memory.tensors_view
    for name, value in tensors.items():
        if value.is_floating_point():
            tensors[name] = made.memory.tensors_view[name] = value.float()
            made.memory.tensors[name] = made.memory.tensors[name].float()
    tensors.update({n: t.view(-1, t.shape[-1]) for n, t in made.memory.tensors.items()})
    made.update(timestep=0, timesteps=1)
    found = [p.double() for p in made.policy.parameters()]
    torch.testing.assert_close(found, [*wide.policy.parameters()], rtol=1e-3, atol=1e-4)
    assert type(taken[-1][0]) is MLPPolicy and taken[-1][1].success
    assert made.policy.log_std_parameter.shape == (ACTIONS,)
