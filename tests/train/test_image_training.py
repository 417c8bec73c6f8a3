"""Training on images, dicts and tuples: what is kept of observations, and whole runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation, FrameStackObservation
from pixel_envs import Columns, Mixed, Pair
from torch import nn

from trpo_fast import TRPO, Categorical, CNNPolicy, CNNValues, Config, MLPPolicy, evaluate
from trpo_fast._base.rows import map_rows
from trpo_fast.envs.errors import EnvError
from trpo_fast.train.checkpoint import CheckpointError
from trpo_fast.train.config import make_config

SIZES: dict[str, Any] = {"num_envs": 3, "rows_per_update": 60}
NET: dict[str, Any] = {"cnn_channels": (3,), "cnn_kernels": (3,), "cnn_strides": (2,)}
SMALL: dict[str, Any] = {**SIZES, **NET, "hidden": (8,), "critic_hidden": (8,)}

ENVS: dict[str, Callable[[], Any]] = {
    "image": Columns,
    "channels last": partial(Columns, (6, 6, 1)),
    "dict": Mixed,
    "tuple": Pair,
}


def same(one: Any, other: Any) -> bool:
    pairs = zip(one.policy.parameters(), other.policy.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs) and torch.equal(
        one.critic.theta, other.critic.theta
    )


@pytest.mark.parametrize("kind", ENVS)
def test_a_run_resumes_bit_for_bit_exports_and_evaluates(kind: str, tmp_path: Path) -> None:
    env = ENVS[kind]
    agent = TRPO(env, **SMALL).learn(60)
    assert isinstance(agent.policy, CNNPolicy) and agent.config.policy == "cnn"
    agent.save(tmp_path / "c")
    loaded = TRPO.load(tmp_path / "c", env=env)
    assert loaded.config == agent.config
    before = [p.clone() for p in agent.policy.parameters()]
    for each in (agent, loaded):
        each.learn(120)
    assert same(agent, loaded)
    assert not torch.equal(before[0], next(agent.policy.parameters()))
    assert evaluate(agent, 3).returns == evaluate(loaded, 3).returns
    if kind not in ("channels last", "dict"):
        return  # torch.export takes seconds
    agent.export(tmp_path / "policy.pt2")
    program = torch.export.load(tmp_path / "policy.pt2").module()
    copies = [env().reset(seed=seed)[0] for seed in range(5)]
    rows = map_rows(lambda *parts: np.stack(parts), *copies)
    arrays = map_rows(lambda part, row: row.astype(part.dtype), kept(agent), rows)
    found = program(map_rows(torch.from_numpy, arrays))
    assert found.tolist() == agent.predict(rows).tolist()
    assert [int(agent.predict(one)) for one in copies] == found.tolist()


def kept(agent: TRPO) -> Any:
    return agent.collector.layout.parts


def test_images_are_kept_as_they_come_and_vectors_are_normalised() -> None:
    agent = TRPO(Mixed, **SMALL)
    agent.train_once()
    rollout = agent.collect()
    kinds = {"camera": torch.uint8, "gear": torch.int64, "switches": torch.int64}
    assert {name: rollout.obs[name].dtype for name in kinds} == kinds
    assert rollout.obs["camera"] is not rollout.raw_obs["camera"]
    assert torch.equal(rollout.obs["camera"], rollout.raw_obs["camera"])
    assert rollout.obs["camera"].shape == (20, 3, 1, 6, 6)
    assert abs(float(rollout.obs["speed"].mean())) < 0.5 < float(rollout.raw_obs["speed"].mean())
    assert torch.equal(rollout.obs["pair"][1], torch.full((20, 3, 2, 2), 0.5))
    lit = rollout.raw_obs["camera"][:, :, 0, 0, ::2].argmax(-1)
    assert torch.equal(rollout.rewards, (lit == rollout.actions).float())
    assert list(agent.normaliser.state_dict()) == ["obs['speed']"]
    assert TRPO(Columns, **SMALL).normaliser is None


def test_the_last_observation_of_a_truncated_episode_is_valued() -> None:
    agent = TRPO(partial(Mixed, length=20), **SMALL)
    agent.start()
    rollout = agent.collect()
    assert rollout.truncated[-1].all() and not rollout.terminated.any()
    assert (rollout.following[-1] != 0.0).all()


@pytest.mark.parametrize("engine", ["async", "workers"])
def test_every_engine_gives_the_same_observations(engine: str) -> None:
    agents = [TRPO(Mixed, engine=e, **SMALL) for e in ("sync", engine)]
    for agent in agents:
        agent.learn(60)
    assert same(*agents)
    agents[1].close()


def test_a_vector_environment_of_gymnasiums_keeps_its_images() -> None:
    for mode in gymnasium.vector.AutoresetMode.NEXT_STEP, gymnasium.vector.AutoresetMode.SAME_STEP:
        env = gymnasium.vector.SyncVectorEnv([Mixed] * 3, autoreset_mode=mode)
        assert TRPO(env, **SMALL).learn(60).updates >= 1


def test_what_auto_chooses_and_what_overrules_it() -> None:
    """Images: Nature's network; vectors: layers, as they always were; flat images: if flattened."""
    config = TRPO(Sized, **SIZES).config
    assert (config.policy, config.hidden, config.critic_hidden) == ("cnn", (512,), (512,))
    assert config.activation == "relu"
    agent = TRPO(Columns, policy="cnn", **SIZES, **NET, hidden=(64, 64))
    assert agent.config.hidden == (64, 64) and agent.config.critic_hidden == (512,)
    flat = TRPO(lambda: FlattenObservation(Columns()), **SIZES)
    assert isinstance(flat.policy, MLPPolicy) and flat.config.policy == "auto"
    for policy in ("mlp", "gru"):
        with pytest.raises(ValueError, match="expected numbers for layers or a cell, got an image"):
            TRPO(Columns, policy=policy, **SIZES)
    assert isinstance(TRPO(Vectors, **SIZES).policy, MLPPolicy)  # a dict of vectors is flattened
    assert isinstance(TRPO(Vectors, policy="cnn", **SIZES).policy, CNNPolicy)
    assert make_config("CartPole-v1", policy="cnn", hidden=(3,)).hidden == (3,)
    with pytest.raises(ValueError, match="cnn_channels: expected as many as cnn_kernels"):
        Config(cnn_channels=(3,))
    with pytest.raises(ValueError, match=r"policy: expected one of .*, got 'CnnPolicy'"):
        TRPO(Columns, policy="CnnPolicy", **SIZES)


class Sized(Columns):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(0, 255, (1, 40, 40), np.uint8)

    def observed(self) -> Any:
        return np.zeros((1, 40, 40), np.uint8)


class Vectors(Columns):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Dict(
            {"a": spaces.Box(-1.0, 1.0, (2,)), "b": spaces.Discrete(3)}
        )

    def observed(self) -> Any:
        return {"a": np.zeros(2, np.float32), "b": self.lit}


def test_frames_stacked_by_gymnasium_train() -> None:
    agent = TRPO(lambda: FrameStackObservation(Columns((6, 6, 1)), 3), **SMALL)
    assert agent.train_once()["reason"] == "accepted"
    assert agent.collector.buffers.obs.shape[2:] == (3, 6, 6, 1)


def test_own_modules_for_images_are_given_again(tmp_path: Path) -> None:
    def nets() -> dict[str, nn.Module]:
        torch.manual_seed(0)
        space, net = (
            Columns().observation_space,
            {"channels": (2,), "kernels": (3,), "strides": (2,)},
        )
        policy = CNNPolicy(space, Categorical(3), (8,), **net)
        return {"policy": policy, "critic": CNNValues(space, (8,), **net)}

    agent = TRPO(Columns, **nets(), **SIZES).learn(60)
    agent.save(tmp_path / "c")
    with pytest.raises(ValueError, match="policy: expected one such as the CNNPolicy of"):
        TRPO.load(tmp_path / "c", env=Columns)
    loaded = TRPO.load(tmp_path / "c", env=Columns, **nets())
    for each in (agent, loaded):
        each.learn(60)
    assert same(agent, loaded)


def test_several_updates_and_a_part_of_the_rows() -> None:
    settings = SMALL | {"updates_per_rollout": 2, "fvp_fraction": 0.5, "critic_rows": 0.5}
    record = TRPO(Mixed, **settings, critic="gauss_newton", discount_weights=True).train_once()
    assert record["reason"] == "accepted"


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "vine": (
        lambda: TRPO(Columns, sampling="vine", **SMALL),
        "sampling: expected 'path' for obser",
    ),
    "kernels": (lambda: TRPO(Columns, **SIZES), "cnn_kernels: expected kernels that fit an image"),
    "tensors": (
        lambda: TRPO("Pendulum-v1", engine="tensor", policy="cnn", **SIZES),
        "policy: expected 'auto' or 'mlp' for a tensor environment, got 'cnn'",
    ),
    "shape": (
        lambda: TRPO(Columns, **SMALL).predict(np.zeros((5, 5))),
        r"obs: expected one observation of shape \[1, 6, 6\], or several, got shape \[5, 5\]",
    ),
    "parts": (
        lambda: TRPO(Mixed, **SMALL).predict(np.zeros(3)),
        r"obs: expected the parts obs\['camera'\], .*, got ndarray",
    ),
    "mixed": (
        lambda: TRPO(Pair, **SMALL).predict((np.zeros((1, 6, 6)), np.zeros((4, 2)))),
        "obs: expected one observation, or several of every part, got both",
    ),
    "counts": (
        lambda: TRPO(Pair, **SMALL).predict((np.zeros((3, 1, 6, 6)), np.zeros((4, 2)))),
        r"obs: expected as many rows of every part, one at least, got \[3, 4\]",
    ),
    "none": (
        lambda: TRPO(Pair, **SMALL).predict((np.zeros((0, 1, 6, 6)), np.zeros((0, 2)))),
        r"obs: expected as many rows of every part, one at least, got \[0\]",
    ),
    "shares": (
        lambda: TRPO(Columns, **SMALL).predict(np.full((1, 6, 6), 0.5)),
        r"obs: expected numbers of uint8, got others, of float64",
    ),
    "nan": (
        lambda: TRPO(Pair, **SMALL).predict((np.zeros((1, 6, 6)), np.full(2, np.nan))),
        r"obs\[1\]: expected finite numbers",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_images_cannot_do_is_said(what: str) -> None:
    make, message = REFUSED[what]
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


def test_an_observation_that_is_not_finite_names_its_part() -> None:
    with pytest.raises(
        EnvError, match=r"returned obs\[1\] not finite in the observation of copy 0"
    ):
        TRPO(partial(Pair, broken=True), **SMALL).learn(60)


def test_a_frozen_or_hooked_policy_is_given_again(tmp_path: Path) -> None:
    frozen, hooked = (TRPO(Columns, **SMALL) for _ in range(2))
    frozen.policy.net.extractor.requires_grad_(False)
    hooked.policy.net.layers.register_forward_hook(lambda *_: None)
    for agent in (frozen, hooked):
        agent.save(tmp_path / "c")
        with pytest.raises(CheckpointError, match="policy: expected one such as the CNNPolicy"):
            TRPO.load(tmp_path / "c", env=Columns)
