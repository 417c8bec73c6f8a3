"""An agent's config describes the policy it has: given, saved, loaded and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

from envs_for_tests import Counting
from gymnasium import spaces

from trpo_fast import TRPO, Bernoulli, Categorical, Gaussian, MLPPolicy, SquashedGaussian
from trpo_fast.train.checkpoint import CheckpointError
from trpo_fast.train.config import Config
from trpo_fast.train.evaluate import evaluate

SMALL: dict[str, Any] = {"num_envs": 2, "rows_per_update": 64, "critic_hidden": (8,)}


def test_an_agents_parts_are_those_of_its_config() -> None:
    settings = {"hidden": (8, 5), "activation": "elu", "initial_log_std": -1.25}
    agent = TRPO("Pendulum-v1", critic_hidden=(7,), num_envs=2, rows_per_update=64, **settings)
    assert agent.policy.spec.widths == (3, 8, 5, 1) and agent.policy.spec.activation == "elu"
    assert agent.policy.head.log_std.tolist() == [-1.25]
    assert [type(layer).__name__ for layer in agent.critic.net.net] == ["Linear", "ELU", "Linear"]
    assert agent.critic.net.net[0].out_features == 7


GIVEN = {
    "relu": ("CartPole-v1", lambda: MLPPolicy(4, Categorical(2), (64, 64), "relu")),
    "narrow": ("CartPole-v1", lambda: MLPPolicy(4, Categorical(2), (8,))),
    "linear": ("Pendulum-v1", lambda: MLPPolicy(3, Gaussian(1, "state"), ())),
    "squashed": ("Pendulum-v1", lambda: MLPPolicy(3, SquashedGaussian(1), (8,), "gelu")),
    "squashed by state": ("Pendulum-v1", lambda: MLPPolicy(3, SquashedGaussian(1, "state"))),
}


@pytest.mark.parametrize("given", GIVEN)
def test_a_given_policy_comes_back_from_its_checkpoint(given: str, tmp_path: Path) -> None:
    env, make = GIVEN[given]
    agent = TRPO(env, policy=make(), **SMALL).learn(64, checkpoint_path=tmp_path / "c")
    loaded = TRPO.load(tmp_path / "c")
    obs = 3.0 * np.random.default_rng(0).normal(size=(50, agent.policy.spec.widths[0]))
    assert loaded.policy.spec == agent.policy.spec and loaded.config == agent.config
    assert np.array_equal(agent.predict(obs), loaded.predict(obs))
    assert evaluate(agent, 2).returns == evaluate(loaded, 2).returns
    agent.export(tmp_path / "policy.pt2")
    program = torch.export.load(tmp_path / "policy.pt2").module()
    exported = program(torch.as_tensor(obs, dtype=torch.float32)).detach().numpy()
    np.testing.assert_allclose(exported, loaded.predict(obs), atol=1e-5)
    assert torch.equal(agent.learn(64).critic.theta, loaded.learn(64).critic.theta)


def test_a_squashed_policy_is_squashed() -> None:
    policy = MLPPolicy(3, SquashedGaussian(1))
    with torch.no_grad():
        policy.net[-1].weight.zero_()
        policy.net[-1].bias.fill_(0.8)
    agent = TRPO("Pendulum-v1", policy=policy, **SMALL)
    np.testing.assert_allclose(agent.predict(np.zeros(3)), 2.0 * np.tanh(0.8), rtol=1e-6)
    assert agent.config.action_mode == "squash"


DISAGREE = [
    ("relu", {"hidden": (32,)}, r"hidden: expected \(64, 64\) as in the policy .*, got \(32,\)"),
    ("relu", {"activation": "tanh"}, "activation: expected 'relu' as in the policy"),
    ("linear", {"std": "free"}, "std: expected 'state' as in the policy"),
    ("squashed", {"action_mode": "scale"}, "action_mode: expected 'squash' as in the policy"),
    ("linear", {"action_mode": "squash"}, "action_mode: expected 'clip' or 'scale' for a policy"),
    ("relu", {"initial_log_std": -1.0}, "initial_log_std: expected none beside a policy"),
    ("relu", {"config": Config(activation="elu")}, "activation: expected 'relu' as in the pol"),
]


@pytest.mark.parametrize(("given", "settings", "message"), DISAGREE)
def test_a_setting_that_disagrees_with_the_policy_is_refused(
    given: str, settings: dict[str, Any], message: str
) -> None:
    env, make = GIVEN[given]
    with pytest.raises(ValueError, match=f"^{message}"):
        TRPO(env, policy=make(), **settings)


def test_a_config_that_says_nothing_of_the_policy_follows_it() -> None:
    config = Config(num_envs=2, rows_per_update=64)
    agent = TRPO("CartPole-v1", config=config, policy=GIVEN["relu"][1]())
    assert agent.config.activation == "relu" and config.activation == "tanh"


def test_a_compiled_policy_decides_the_settings_as_the_one_inside(tmp_path: Path) -> None:
    env, make = GIVEN["relu"]
    agent = TRPO(env, policy=torch.compile(make(), backend="eager"), **SMALL)
    assert agent.config == TRPO(env, policy=make(), **SMALL).config
    agent.save(tmp_path / "c")
    assert TRPO.load(tmp_path / "c").policy.spec == make().spec


class Twice(MLPPolicy):
    def distribution_params(self, obs: Any, action_mask: Any = None) -> Any:
        return 2.0 * super().distribution_params(obs, action_mask)


def test_a_policy_of_another_class_is_given_again(tmp_path: Path) -> None:
    agent = TRPO("CartPole-v1", policy=Twice(4, Categorical(2)), **SMALL)
    agent.learn(64, checkpoint_path=tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"policy: expected one such as the Twice of .*, got"):
        TRPO.load(tmp_path / "c")
    loaded = TRPO.load(tmp_path / "c", policy=Twice(4, Categorical(2)))
    assert torch.equal(agent.learn(64).critic.theta, loaded.learn(64).critic.theta)


def test_a_head_of_another_kind_does_not_fit() -> None:
    class Boxed(Counting):
        action_space = spaces.Box(-1.0, 1.0, (3,))

    with pytest.raises(ValueError, match=r"policy: expected .* Gaussian.*, got 2 and Bernoulli"):
        TRPO(Boxed, policy=MLPPolicy(2, Bernoulli(3)), **SMALL)
