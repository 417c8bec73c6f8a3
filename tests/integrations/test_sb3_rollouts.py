"""Rollouts of the class that stands in for sb3-contrib's: theirs bit for bit, and nothing of the
short form in what callbacks copy, save or see.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sb3_contrib")

from sb3_contrib.trpo.trpo import TRPO as Sb3TRPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from trpo_fast.integrations.sb3 import TRPO
from trpo_fast.integrations.sb3 import acting as module

COLLECTED = "observations actions rewards values log_probs advantages returns".split()


class Each(BaseCallback):
    """A function of the model, called after every step."""

    def __init__(self, look: Callable[[Any], None]) -> None:
        super().__init__()
        self.look = look

    def _on_step(self) -> bool:
        self.look(self)
        return True


def collect(kind: type, env: Any, look: Callable[[Any], None] = lambda _: None, **options) -> Any:
    """A model after one rollout of 64 steps in each of 3 environments."""
    policy = options.pop("policy", "MlpPolicy")
    if isinstance(env, str):
        env = make_vec_env(env, 3, seed=3)
    made = kind(policy, env, n_steps=64, seed=5, device="cpu", **options)
    _, callback = made._setup_learn(192, Each(look))
    assert made.collect_rollouts(made.env, callback, made.rollout_buffer, 64)
    return made


@pytest.fixture
def shortened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of the short form."""
    calls: list[Any] = []
    called = module._Forward.__call__

    def recorded(self: Any, *given: Any) -> Any:
        calls.append(given)
        return called(self, *given)

    monkeypatch.setattr(module._Forward, "__call__", recorded)
    return calls


def same(ours: Any, theirs: Any) -> None:
    for name in COLLECTED:
        got, expected = (getattr(each.rollout_buffer, name) for each in (ours, theirs))
        assert got.dtype == expected.dtype and np.array_equal(got, expected), name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"net_arch": [8]},
        {"net_arch": {"pi": [], "vf": [16, 16]}, "activation_fn": nn.SiLU},
        {"share_features_extractor": False},
    ],
    ids=["stock", "one-layer", "nothing-shared", "two-extractors"],
)
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_rollouts_are_theirs_bit_for_bit(env: str, options: dict, shortened: list[Any]) -> None:
    ours = collect(TRPO, env, policy_kwargs=options)
    assert len(shortened) == 64
    same(ours, collect(Sb3TRPO, env, policy_kwargs=options))


def test_normalised_observations(shortened: list[Any]) -> None:
    ours, theirs = (
        collect(kind, VecNormalize(make_vec_env("Pendulum-v1", 3, seed=3)))
        for kind in (TRPO, Sb3TRPO)
    )
    assert len(shortened) == 64
    same(ours, theirs)


def test_parameters_written_on_the_way_are_followed(shortened: list[Any]) -> None:
    @torch.no_grad()
    def move(callback: Any) -> None:
        for parameter in callback.model.policy.parameters():
            parameter.mul_(1.01)

    same(collect(TRPO, "Pendulum-v1", move), collect(Sb3TRPO, "Pendulum-v1", move))
    assert len(shortened) == 64


def test_callbacks_copy_and_save_a_policy_of_sb3() -> None:
    copies: list[Any] = []

    def keep(callback: Any) -> None:
        policy = callback.model.policy
        file = io.BytesIO()
        torch.save(policy, file)
        file.seek(0)
        copies.extend([copy.deepcopy(policy), torch.load(file, weights_only=False)])

    model = collect(TRPO, "Pendulum-v1", keep)
    obs = torch.zeros(1, 3)
    for other in copies[:2]:
        with torch.no_grad():
            other.value_net.bias.add_(1.0)
        assert other.forward.__func__ is ActorCriticPolicy.forward
        assert other.forward(obs)[1] == model.policy.forward(obs)[1] + 1.0
    assert "forward" not in vars(model.policy)


def test_the_form_goes_when_a_callback_raises() -> None:
    seen: list[Any] = []

    def fail(callback: Any) -> None:
        seen.append(callback.model)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        collect(TRPO, "CartPole-v1", fail)
    assert "forward" not in vars(seen[0].policy)


class Doubled(ActorCriticPolicy):
    def forward(self, obs: Any, deterministic: bool = False) -> Any:
        actions, values, log_probs = super().forward(obs, deterministic)
        return actions, 2.0 * values, log_probs


class Scaled(FlattenExtractor):
    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return 0.5 * super().forward(observations)


@pytest.mark.parametrize(
    "options",
    [
        {"policy": Doubled},
        {"policy_kwargs": {"features_extractor_class": Scaled}},
        {"use_sde": True},
    ],
    ids=["own-forward", "own-extractor", "gsde"],
)
def test_other_policies_run_as_they_are(options: dict, shortened: list[Any]) -> None:
    same(collect(TRPO, "Pendulum-v1", **options), collect(Sb3TRPO, "Pendulum-v1", **options))
    assert not shortened


def test_a_broken_policy_fails_as_theirs_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch.compile turns it off for the rest of the process.
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)

    @torch.no_grad()
    def spoil(callback: Any) -> None:
        callback.model.policy.action_net.bias.fill_(float("nan"))

    said = []
    for kind in (TRPO, Sb3TRPO):
        with pytest.raises(ValueError) as caught:
            collect(kind, "Pendulum-v1", spoil)
        said.append(str(caught.value))
    assert said[0] == said[1]
