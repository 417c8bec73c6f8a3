"""Agents from checkpoints alone: what must be given again, and the sentences that ask for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

import gymnasium
from envs_for_tests import Counting
from small_runs import SMALL

from trpo_fast import Categorical, MLPPolicy
from trpo_fast.train import checkpoint
from trpo_fast.train.checkpoint import CheckpointError
from trpo_fast.train.trainer import TRPO


@pytest.mark.parametrize("env", [lambda: Counting(), Counting, "venv"])
@pytest.mark.filterwarnings("ignore:the episodes under way")
def test_an_environment_without_an_id_is_given_again(env: Any, tmp_path: Path) -> None:
    def make() -> Any:
        return gymnasium.vector.SyncVectorEnv([Counting, Counting]) if env == "venv" else env

    tree = TRPO(make(), **SMALL).learn(64).state()
    older = {name: part for name, part in tree.items() if name != "env_has_id"}
    for name, saved in (("new", tree), ("older", older)):
        checkpoint.save(tmp_path / name, saved)
        with pytest.raises(CheckpointError, match=r"^env: expected .* give env=") as caught:
            TRPO.load(tmp_path / name)
        assert "a function or an object made it" in str(caught.value) or name == "older"
        assert TRPO.load(tmp_path / name, make()).steps == tree["counters"][0]


def test_an_unknown_id_asks_for_the_environment(tmp_path: Path) -> None:
    tree = TRPO("CartPole-v1", **SMALL).state()
    checkpoint.save(tmp_path / "c", {**tree, "config": {**tree["config"], "env": "Nowhere-v0"}})
    with pytest.raises(CheckpointError, match=r"got 'Nowhere-v0' for .*gymnasium: .*give env="):
        TRPO.load(tmp_path / "c")
    assert TRPO.load(tmp_path / "c", "CartPole-v1").config.env == "CartPole-v1"
    checkpoint.save(tmp_path / "c", {**tree, "config": {**tree["config"], "env": "nowhere:X-v0"}})
    with pytest.raises(CheckpointError, match=r"its module: .*nowhere.*give env="):
        TRPO.load(tmp_path / "c", trust_env=True)


class Prior(Categorical):
    """A head whose choices start from odds of its own."""

    def distribution_params(self, z: torch.Tensor, **options: Any) -> torch.Tensor:
        return super().distribution_params(z + torch.tensor([9.0, 0.0]), **options)


def test_a_head_of_ones_own_is_given_again(tmp_path: Path) -> None:
    def make() -> MLPPolicy:
        return MLPPolicy(4, Prior(2), hidden=(8,))

    agent, obs = TRPO("CartPole-v1", policy=make(), **SMALL), torch.zeros(4)
    agent.save(tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"policy: expected one .* or a head that settings"):
        TRPO.load(tmp_path / "c")
    loaded = TRPO.load(tmp_path / "c", policy=make())
    assert agent.predict(obs) == loaded.predict(obs) == 0
    assert "cpu" not in agent.learn(64).train_once()["backend"]  # its kernels know stock heads


@pytest.mark.parametrize("device", ["cpu", "cuda:77"])
def test_the_device_given_is_where_it_loads(device: str, tmp_path: Path) -> None:
    tree = TRPO("CartPole-v1", **SMALL).state()
    checkpoint.save(tmp_path / "c", {**tree, "config": {**tree["config"], "device": "cuda:78"}})
    if device == "cpu":
        assert TRPO.load(tmp_path / "c", device=device).config.device == device
    else:
        with pytest.raises(CheckpointError, match=r"device: expected one that works here, .*:77"):
            TRPO.load(tmp_path / "c", device=device)


def test_a_refused_checkpoint_leaves_the_callers_environment_open(tmp_path: Path) -> None:
    venv = gymnasium.vector.SyncVectorEnv([Counting, Counting])
    tree = TRPO(venv, **SMALL).learn(64).state()
    checkpoint.save(tmp_path / "c", {**tree, "counters": [64, -1, 0, 0]})
    with pytest.raises(
        CheckpointError, match="counters: expected an integer of at least 0, got -1"
    ):
        TRPO.load(tmp_path / "c", venv)
    assert not venv.closed
