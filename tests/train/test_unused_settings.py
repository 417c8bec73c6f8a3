"""A setting that the policy does not use is refused, with the policies that use it; what was saved
when it was ignored is still read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

from trpo_fast import TRPO, Categorical, MLPPolicy, RecurrentPolicy
from trpo_fast._base.settings import declared
from trpo_fast.cli import main as cli
from trpo_fast.train import checkpoint
from trpo_fast.train.config import Config, make_config
from trpo_fast.train.tuning import Search

SMALL: dict[str, Any] = {"num_envs": 2, "rows_per_update": 40, "hidden": (8,)}
CHOSEN: dict[str, Any] = {
    "cell_width": 5,
    "encoder": (7,),
    "sequence_length": 10,
    "cnn_channels": (4, 4, 4),
    "cnn_kernels": (3, 3, 3),
    "cnn_strides": (1, 1, 1),
}
MEMORY = ("cell_width", "encoder", "sequence_length")


def refused(name: str, beside: str) -> str:
    users = "policy='gru' and 'lstm' use it" if name in MEMORY else "policy='cnn' uses it"
    got = re.escape(repr(CHOSEN[name]))
    return rf"^{name}: expected none beside {beside} \({users}\), got {got}$"


def test_the_settings_of_some_policies_are_these_and_say_of_which() -> None:
    of_some = {s.name: s for s in declared(Config).values() if s.policies}
    assert of_some.keys() == CHOSEN.keys()
    for setting in of_some.values():
        assert setting.help.startswith(f"{', '.join(setting.policies)}: ")


@pytest.mark.parametrize("name", CHOSEN)
def test_a_setting_of_another_policy_is_refused(name: str) -> None:
    others = ("mlp", "cnn") if name in MEMORY else ("mlp", "gru", "lstm")
    for policy in others:
        with pytest.raises(ValueError, match=refused(name, f"policy='{policy}'")):
            Config(policy=policy, **{name: CHOSEN[name]})
        Config(policy=policy, **{name: declared(Config)[name].default})
    with pytest.raises(ValueError, match=refused(name, "policy='auto' without an image")):
        TRPO("CartPole-v1", **SMALL, **{name: CHOSEN[name]})


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, obs: torch.Tensor) -> Any:
        return torch.distributions.Categorical(logits=self.layer(obs))


POLICIES = {
    "an MLPPolicy": lambda: MLPPolicy(4, Categorical(2), (8,)),
    "policy='gru'": lambda: RecurrentPolicy(4, Categorical(2), "gru", 5, hidden=(8,)),
    "a policy without a memory": Own,
}


@pytest.mark.parametrize("given", POLICIES)
def test_a_module_is_told_of_the_settings_it_does_not_use(given: str) -> None:
    name = "cnn_strides" if "gru" in given else "sequence_length"
    settings = {key: SMALL[key] for key in ("num_envs", "rows_per_update")}
    with pytest.raises(ValueError, match=refused(name, given)):
        TRPO("CartPole-v1", policy=POLICIES[given](), **settings, **{name: CHOSEN[name]})


def test_the_settings_of_a_policy_go_with_it() -> None:
    memory = {name: CHOSEN[name] for name in MEMORY}
    agent = TRPO("CartPole-v1", policy="gru", **SMALL, **memory)
    assert agent.config.encoder == (7,) and agent.config.sequence_length == 10
    module = RecurrentPolicy(4, Categorical(2), "gru", 5, hidden=(8,))
    agent = TRPO("CartPole-v1", policy=module, **SMALL, sequence_length=10)
    assert agent.config.policy == "gru" and agent.config.sequence_length == 10


def test_the_command_line_refuses_them(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "CartPole-v1", "--policy", "mlp", "--cell-width", "5", "--steps", "100"]
    assert cli.main(words) == 1
    assert "cell_width: expected none beside policy='mlp'" in capsys.readouterr().err


@pytest.mark.parametrize("policy", ["mlp", "auto", "gru"])
def test_what_was_ignored_when_it_was_saved_is_still_read(policy: str, tmp_path: Path) -> None:
    agent = TRPO("CartPole-v1", policy=policy, **SMALL).learn(40)
    agent.save(tmp_path / "c")
    tree = checkpoint.load(tmp_path / "c")
    unused = [name for name in CHOSEN if policy != "gru" or name not in MEMORY]
    tree["config"] |= {name: list(CHOSEN[name]) for name in unused if "cnn" in name}
    tree["config"] |= {name: CHOSEN[name] for name in unused if "cnn" not in name}
    checkpoint.save(tmp_path / "c", tree)
    loaded = TRPO.load(tmp_path / "c")
    assert loaded.config == agent.config
    assert torch.equal(loaded.learn(40).critic.theta, agent.learn(40).critic.theta)


def test_a_trial_leaves_out_what_its_policy_does_not_use() -> None:
    search = Search("CartPole-v1", {}, {"seed": 3}, steps=1, evaluations=1, episodes=1, seed=3)
    chosen = {"policy": "mlp", "cell_width": 5, "gamma": 0.9}
    assert search.config(chosen) == make_config("CartPole-v1", seed=3, policy="mlp", gamma=0.9)
    assert search.used(chosen) == {"policy": "mlp", "gamma": 0.9}
    assert search.config(chosen | {"policy": "gru"}).cell_width == 5
