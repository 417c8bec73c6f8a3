"""``train()`` of the class that stands in for sb3-contrib's: the same draws, the same update and
the same fit up to float32's rounding, the same words in the log.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sb3_contrib")

from exactness import SOLUTION, no_worse
from gymnasium import spaces
from sb3_cases import ACTIONS, DICT, DoubleFlatten, fill, model, parameters
from sb3_contrib.trpo.trpo import TRPO as Sb3TRPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from torch import Tensor, nn

from trpo_fast.integrations.sb3 import TRPO
from trpo_fast.integrations.sb3 import trpo as module


class OnReference(TRPO):
    backend = "reference"


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The steps that were taken here and not by the inherited ``train()``."""
    steps: list[Any] = []
    taken = module.policy_step

    def recorded(*given: Any) -> Any:
        steps.append(taken(*given))
        return steps[-1]

    monkeypatch.setattr(module, "policy_step", recorded)
    return steps


def trained(kind: type, action_space: Any, seed: int = 1, **options: Any) -> tuple[Any, Tensor]:
    """A model after one ``train()``, and how far it moved its actor."""
    made = model(kind, action_space, **options)
    fill(made, model(Sb3TRPO, action_space, **options))
    start = parameters(made, "actor")
    torch.manual_seed(seed)
    np.random.seed(seed)
    made.train()
    return made, parameters(made, "actor") - start


def exact_step(monkeypatch: pytest.MonkeyPatch, action_space: Any, **options: Any) -> Tensor:
    """The actor's step by sb3's own code in float64, from the same start of CG."""
    kwargs = {**options.get("policy_kwargs", {}), "features_extractor_class": DoubleFlatten}
    wide = options | {"policy_kwargs": kwargs, "n_critic_updates": 0}
    made = model(Sb3TRPO, action_space, **wide)
    fill(made, model(Sb3TRPO, action_space, **options))
    made.policy.double()
    start = parameters(made, "actor")
    torch.manual_seed(1)
    np.random.seed(1)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn_like", lambda b: torch.randn(b.shape).to(b))
        made.train()
    return parameters(made, "actor") - start


OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "third of the rows": {"sub_sampling_factor": 3, "normalize_advantage": False},
    "settings": {"cg_max_steps": 4, "cg_damping": 0.02, "target_kl": 0.05},
    "relu": {"policy_kwargs": {"net_arch": {"pi": [9], "vf": [7, 8]}, "activation_fn": nn.ReLU}},
    "linear": {"policy_kwargs": {"net_arch": []}},
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the mean of no losses
@pytest.mark.parametrize("kind", [TRPO, OnReference])
@pytest.mark.parametrize("actions", ACTIONS)
def test_the_first_step_is_theirs_for_every_action_space(
    fused: list[Any], monkeypatch: pytest.MonkeyPatch, kind: type, actions: str
) -> None:
    space = ACTIONS[actions]
    _, theirs = trained(Sb3TRPO, space)
    _, ours = trained(kind, space)
    no_worse(ours, theirs, exact_step(monkeypatch, space), SOLUTION, f"{actions}: step")
    assert len(fused) == 1 and fused[0].success


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", OPTIONS)
def test_the_first_step_is_theirs_for_other_settings(
    fused: list[Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    space, options = ACTIONS["box"], OPTIONS[name]
    _, theirs = trained(Sb3TRPO, space, **options)
    _, ours = trained(TRPO, space, **options)
    truth = exact_step(monkeypatch, space, **options)
    no_worse(ours, theirs, truth, SOLUTION, f"{name}: step")
    assert len(fused) == 1 and fused[0].success


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("batch_size", [24, 36, 200])
def test_the_critic_follows_their_adam(batch_size: int) -> None:
    space = ACTIONS["discrete"]
    theirs, _ = trained(Sb3TRPO, space, batch_size=batch_size)
    ours, _ = trained(TRPO, space, batch_size=batch_size)
    other, _ = trained(OnReference, space, batch_size=batch_size)
    for made in (ours, other):
        torch.testing.assert_close(
            parameters(made, "critic"), parameters(theirs, "critic"), rtol=1e-5, atol=1e-6
        )
        assert logged(made)["value_loss"] == pytest.approx(logged(theirs)["value_loss"], rel=1e-5)


def logged(made: Any) -> dict[str, Any]:
    found = made.logger.name_to_value
    return {key.removeprefix("train/"): v for key, v in found.items() if key.startswith("train/")}


def test_the_fit_is_as_exact_as_theirs() -> None:
    space = ACTIONS["discrete"]
    theirs, _ = trained(Sb3TRPO, space)
    ours, _ = trained(TRPO, space)
    truth = model(Sb3TRPO, space)
    fill(truth, model(Sb3TRPO, space))
    net = nn.Sequential(*truth.policy.mlp_extractor.value_net, truth.policy.value_net).double()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, eps=1e-5)
    np.random.seed(1)
    list(truth.rollout_buffer.get())
    for _ in range(10):
        for rows in truth.rollout_buffer.get(24):
            values = net(rows.observations.double()).flatten()
            optimizer.zero_grad()
            (rows.returns.double() - values).square().mean().backward()
            optimizer.step()
    every = [parameters(made, "critic") for made in (ours, theirs, truth)]
    no_worse(*every, what="critic")


@pytest.mark.parametrize("kind", [TRPO, OnReference])
def test_both_generators_end_where_theirs_do(kind: type) -> None:
    ends = []
    for each in (Sb3TRPO, kind):
        trained(each, ACTIONS["box"])
        ends.append((torch.randn(3).tolist(), np.random.random(3).tolist()))
    assert ends[0] == ends[1]


def test_the_log_has_their_words_and_values() -> None:
    theirs, _ = trained(Sb3TRPO, ACTIONS["box"])
    ours, _ = trained(TRPO, ACTIONS["box"])
    assert list(logged(ours)) == list(logged(theirs))
    for key, value in logged(theirs).items():
        assert logged(ours)[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


def test_a_second_update_goes_on_with_the_optimiser() -> None:
    space, made = ACTIONS["box"], {}
    for kind in (Sb3TRPO, TRPO):
        made[kind], _ = trained(kind, space)
        fill(made[kind], model(Sb3TRPO, space))
        made[kind].train()
    theirs, ours = (parameters(made[kind], "critic") for kind in (Sb3TRPO, TRPO))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    states = [made[kind].policy.optimizer.state_dict()["state"] for kind in (Sb3TRPO, TRPO)]
    assert list(states[0]) == list(states[1]) and states[0]
    for index, state in states[0].items():
        assert state["step"] == states[1][index]["step"] == 80
        for name in ("exp_avg", "exp_avg_sq"):
            scale = float(state[name].abs().max())
            torch.testing.assert_close(
                states[1][index][name], state[name], rtol=1e-3, atol=1e-4 * scale
            )


def test_vectors_in_a_dict_are_for_the_kernels(fused: list[Any]) -> None:
    options = {"observation_space": DICT}
    theirs, its = trained(Sb3TRPO, ACTIONS["multidiscrete"], **options)
    ours, step = trained(TRPO, ACTIONS["multidiscrete"], **options)
    torch.testing.assert_close(step, its, rtol=1e-3, atol=1e-5 * float(its.abs().max()))
    critics = [parameters(made, "critic") for made in (ours, theirs)]
    torch.testing.assert_close(*critics, rtol=1e-5, atol=1e-6)
    assert len(fused) == 1


@pytest.mark.parametrize("options", [{"line_search_max_iter": 0}, {"target_kl": 1e-30}])
def test_a_search_that_fails_leaves_the_actor(fused: list[Any], options: dict[str, Any]) -> None:
    theirs, _ = trained(Sb3TRPO, ACTIONS["box"], **options)
    ours, step = trained(TRPO, ACTIONS["box"], **options)
    assert not step.any() and not fused[0].success
    assert logged(ours)["is_line_search_success"] == logged(theirs)["is_line_search_success"] == 0
    assert logged(ours)["kl_divergence_loss"] == 0.0
    objectives = [logged(made)["policy_objective"] for made in (ours, theirs)]
    assert objectives[0] == pytest.approx(objectives[1], abs=1e-6)


def test_values_that_are_not_finite_leave_the_actor() -> None:
    made = model(TRPO, ACTIONS["box"], n_critic_updates=1)
    fill(made, model(Sb3TRPO, ACTIONS["box"]))
    made.rollout_buffer.advantages[0] = np.nan
    start = parameters(made, "actor")
    made.train()
    assert torch.equal(parameters(made, "actor"), start)


class OwnProduct(TRPO):
    """Whose product is another."""

    def hessian_vector_product(self, *given: Any, **options: Any) -> Tensor:
        return super().hessian_vector_product(*given, **options)


class Dense(FlattenExtractor):
    """A layer that the policy and, if it is shared, the values see through."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space)
        self.layer = nn.Linear(self.features_dim, self.features_dim)

    def forward(self, observations: Tensor) -> Tensor:
        return torch.sin(self.layer(super().forward(observations)))


class Convolution(FlattenExtractor):
    """The same of a convolution."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space)
        self.layer = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, observations: Tensor) -> Tensor:
        return torch.sin(self.layer(super().forward(observations).unsqueeze(1)).squeeze(1))


class WithUnused(Convolution):
    """A parameter that nothing follows from."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space)
        self.rest = nn.Parameter(torch.ones(3))


class NamedValue(Convolution):
    """A parameter that sb3 takes for the critic's."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space)
        self.value = nn.Parameter(torch.ones(self.features_dim))

    def forward(self, observations: Tensor) -> Tensor:
        return self.value * super().forward(observations)


class LongBuffer(RolloutBuffer):
    """A buffer with samples of its own."""

    def get(self, batch_size: int | None = None) -> Any:
        return super().get(batch_size)


OWN = {"features_extractor_class": Convolution}
APART = {**OWN, "share_features_extractor": False}
OTHERS: dict[str, tuple[type, dict[str, Any], int]] = {  # class, options, updates that are fused
    "own product": (OwnProduct, {}, 0),
    "gSDE": (TRPO, {"use_sde": True}, 0),
    "leaky": (TRPO, {"policy_kwargs": {"activation_fn": nn.LeakyReLU}}, 0),
    "dense": (TRPO, {"policy_kwargs": {"features_extractor_class": Dense}}, 0),
    "dropout": (TRPO, {"policy_kwargs": {**OWN, "activation_fn": nn.Dropout}}, 0),
    "unused": (TRPO, {"policy_kwargs": {"features_extractor_class": WithUnused}}, 0),
    "named value": (TRPO, {"policy_kwargs": {"features_extractor_class": NamedValue}}, 0),
    "convolution": (TRPO, {"policy_kwargs": OWN}, 1),
    "two convolutions": (TRPO, {"policy_kwargs": APART}, 1),
    "own buffer": (TRPO, {"rollout_buffer_class": LongBuffer}, 1),
    "decay": (TRPO, {"policy_kwargs": {"optimizer_kwargs": {"weight_decay": 0.1}}}, 1),
    "SGD": (TRPO, {"policy_kwargs": {"optimizer_class": torch.optim.SGD}}, 1),
}


@pytest.mark.filterwarnings("ignore:policy. expected")
@pytest.mark.parametrize("name", OTHERS)
def test_what_the_kernels_do_not_take_is_trained_as_theirs(fused: list[Any], name: str) -> None:
    kind, options, count = OTHERS[name]
    theirs, its = trained(Sb3TRPO, ACTIONS["box"], **options)
    ours, step = trained(kind, ACTIONS["box"], **options)
    torch.testing.assert_close(step, its, rtol=1e-3, atol=1e-5 * float(its.abs().max()))
    critics = [parameters(made, "critic") for made in (ours, theirs)]
    # Features of a shared convolution differ by the rounding of the step that moved it.
    rounding = {"rtol": 1e-5, "atol": 1e-7} if count else {"rtol": 0.0, "atol": 0.0}
    torch.testing.assert_close(*critics, **rounding)
    assert len(fused) == count


def test_a_hook_on_a_layer_is_run(fused: list[Any]) -> None:
    made = model(TRPO, ACTIONS["box"])
    fill(made, model(Sb3TRPO, ACTIONS["box"]))
    calls: list[int] = []
    made.policy.mlp_extractor.policy_net.register_forward_hook(lambda *_: calls.append(1))
    made.train()
    assert calls and not fused


class Images(BaseFeaturesExtractor):
    """A convolution; beside it a vector, where observations have one."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space, 18)
        self.convolution = nn.Conv2d(1, 2, 4)

    def forward(self, observations: Any) -> Tensor:
        structured = isinstance(observations, dict)
        image = observations["image"] if structured else observations
        seen = torch.relu(self.convolution(image)).flatten(1)
        return seen + observations["vector"].mean(1, keepdim=True) if structured else seen


IMAGE = spaces.Box(0, 255, (1, 6, 6), np.uint8)
BOTH = spaces.Dict({"vector": DICT["vector"], "image": IMAGE, "choice": DICT["choice"]})


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("observation_space", [IMAGE, BOTH], ids=["image", "dict"])
def test_convolutions_run_as_modules(
    fused: list[Any], observation_space: spaces.Space, share: bool
) -> None:
    kwargs = {"features_extractor_class": Images, "share_features_extractor": share}
    options = {"observation_space": observation_space, "policy_kwargs": {**kwargs, "net_arch": [8]}}
    theirs, its = trained(Sb3TRPO, ACTIONS["box"], **options)
    ours, step = trained(TRPO, ACTIONS["box"], **options)
    torch.testing.assert_close(step, its, rtol=1e-3, atol=1e-4 * float(its.abs().max()))
    critics = [parameters(made, "critic") for made in (ours, theirs)]
    torch.testing.assert_close(*critics, rtol=1e-5, atol=1e-5)
    assert len(fused) == 1 and fused[0].success


def test_it_says_once_why_a_policy_is_left_to_sb3() -> None:
    made = model(TRPO, ACTIONS["box"], policy_kwargs={**OWN, "activation_fn": nn.Dropout})
    with pytest.warns(UserWarning, match="got Dropout at hidden.1; sb3-contrib's own") as told:
        for _ in range(2):
            fill(made, model(Sb3TRPO, ACTIONS["box"]))
            made.train()
    assert len([each for each in told if "Dropout" in str(each.message)]) == 1
