"""What goes wrong around a trainer: environments and processes that fail, checkpoints and arguments
that do not fit, packages that are missing. Policy and last checkpoint stay as they were.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

import gymnasium
from envs_for_tests import Failing, Masked
from small_runs import SMALL, parameters

from trpo_fast.envs.gym.host import EnvError
from trpo_fast.policy.heads import Categorical, Gaussian
from trpo_fast.policy.net import MLPPolicy
from trpo_fast.train import checkpoint
from trpo_fast.train.checkpoint import CheckpointError
from trpo_fast.train.config import Config
from trpo_fast.train.evaluate import evaluate
from trpo_fast.train.trainer import TRPO

pytestmark = pytest.mark.attack


def test_a_killed_worker_leaves_policy_and_checkpoint_intact(tmp_path: Path) -> None:
    agent = TRPO("CartPole-v1", engine="workers", workers=1, **SMALL)
    agent.learn(64, checkpoint_path=tmp_path / "c")
    before = parameters(agent)
    os.kill(agent.envs.venv.processes[0].pid, signal.SIGKILL)
    with pytest.raises(EnvError, match="a worker process died"):
        agent.learn(64, checkpoint_path=tmp_path / "c")
    agent.close()
    resumed = TRPO.load(tmp_path / "c")
    assert torch.equal(before, parameters(agent)) and torch.equal(before, parameters(resumed))
    assert resumed.learn(64).steps == 128
    resumed.close()


@pytest.mark.parametrize("how", ["raises", "nan", "reward", "shape"])
def test_a_failing_environment_leaves_policy_and_checkpoint_intact(
    how: str, tmp_path: Path
) -> None:
    path = tmp_path / "c"
    agent = TRPO(lambda: Failing(how), num_envs=1, rows_per_update=4, hidden=(4,))
    agent.learn(4, checkpoint_path=path, checkpoint_every=1)
    before = parameters(agent)
    with pytest.raises(EnvError):
        agent.learn(100, checkpoint_path=path, checkpoint_every=1)
    assert torch.equal(before, parameters(agent)) and checkpoint.load(path)["counters"][0] == 4


def train_forever(path: Path) -> None:
    torch.set_num_threads(1)
    TRPO("CartPole-v1", **SMALL).learn(10**9, checkpoint_path=path, checkpoint_every=1)


def test_kill_during_training_loses_at_most_the_last_update(tmp_path: Path) -> None:
    path, spawn = tmp_path / "c", multiprocessing.get_context("spawn")
    child = spawn.Process(target=train_forever, args=(path,), daemon=True)
    child.start()
    while not path.exists():
        time.sleep(0.05)
        assert child.is_alive()
    time.sleep(0.3)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    resumed = TRPO.load(path)
    updates = resumed.updates
    whole = TRPO("CartPole-v1", **SMALL).learn(64 * (updates + 1))
    assert torch.equal(parameters(whole), parameters(resumed.learn(64)))


def test_bad_checkpoints_and_arguments_are_sentences(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "other", {"kind": "else"})
    with pytest.raises(checkpoint.CheckpointError, match="expected an agent's checkpoint"):
        TRPO.load(tmp_path / "other")
    tree = TRPO("CartPole-v1", **SMALL).state()
    obs = {**tree["collector"], "obs": np.zeros((1, 4))}
    weights = {**tree["policy"], "net.0.weight": torch.zeros(3, 3)}
    parts = {"policy": weights, "recent": [], "counters": [1], "envs": [{}], "collector": obs}
    for name, part in parts.items():
        checkpoint.save(tmp_path / name, {**tree, name: part})
        with pytest.raises(checkpoint.CheckpointError, match="does not fit"):
            TRPO.load(tmp_path / name)
    agent = TRPO("CartPole-v1", **SMALL)
    for obs in ([1.0, 2.0], np.zeros(8), np.zeros((4, 2)), np.zeros((0, 4)), {"a": 1}):
        with pytest.raises(ValueError, match="obs: expected "):
            agent.predict(obs)
    assert np.shape(agent.predict(np.zeros((1, 4)))) == (1,) and not np.shape(
        agent.predict([0] * 4)
    )
    with pytest.raises(ValueError, match="total_steps: expected a finite number of at least 0"):
        agent.learn(-1)
    with pytest.raises(ValueError, match="episodes: expected an integer of at least 1"):
        evaluate(agent, episodes=0)
    with pytest.raises(ValueError, match="config: expected a Config or settings, got both"):
        TRPO("CartPole-v1", config=Config(), gamma=0.5)
    with pytest.raises(ValueError, match="device: expected one that works here"):
        TRPO("CartPole-v1", device="cuda:99")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (lambda: MLPPolicy(40, Categorical(2)), "policy: expected 4 numbers in .*, got 40"),
        (lambda: MLPPolicy(4, Categorical(5)), "policy: expected 4 numbers in and the head Cat"),
        (lambda: MLPPolicy(4, Gaussian(2)), "policy: expected .*, got 4 and Gaussian"),
        (lambda: MLPPolicy(4, Categorical(2), dtype=torch.float64), "policy: expected float32"),
        (
            lambda: torch.nn.Linear(4, 2),
            "policy: expected a module that returns Normal, .* over N rows, got Tensor",
        ),
    ],
)
def test_a_policy_must_fit_its_environment(policy: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TRPO("CartPole-v1", policy=policy())


def test_the_number_of_copies_is_the_environment_s() -> None:
    venv = gymnasium.make_vec("CartPole-v1", 1, vectorization_mode="sync")
    with pytest.raises(ValueError, match="num_envs: expected the environment's 1, got 4"):
        TRPO(venv, config=Config(num_envs=4))


def test_no_warnings_in_an_ordinary_run() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TRPO("CartPole-v1", **SMALL).learn(64)


MODULE = """
from pathlib import Path
import gymnasium
Path("imported").touch()
cartpole = "gymnasium.envs.classic_control:CartPoleEnv"
gymnasium.register("Planted-v0", cartpole, max_episode_steps=9)
"""


def test_a_checkpoint_imports_no_module_unless_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gymnasium imports the module of "module:Id"; a file alone must not bring that about."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    agent, mark = TRPO("CartPole-v1", **SMALL).learn(64), Path("imported")
    agent.config.env = "planted_module:Planted-v0"
    agent.save("c")
    Path("planted_module.py").write_text(MODULE)
    with pytest.raises(CheckpointError, match=r"env: expected an id that imports nothing, .*trust"):
        TRPO.load("c")
    given = TRPO.load("c", "CartPole-v1")
    assert given.config.env == "CartPole-v1" and not mark.exists()
    assert TRPO.load("c", lambda: gymnasium.make("CartPole-v1")).config.env
    assert not mark.exists()
    assert TRPO.load("c", trust_env=True).steps == 64 and mark.exists()


@pytest.mark.parametrize("package", ["gymnasium", "safetensors"])
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    agent = TRPO("CartPole-v1", **SMALL)
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf'needs {package}: pip install "trpo-fast\[train\]"'):
        TRPO("CartPole-v1", **SMALL) if package == "gymnasium" else agent.save(tmp_path / "c")


@pytest.mark.parametrize("critic", ["adam", "gauss_newton"])
@pytest.mark.parametrize("reward", [1e20, -1e30, 1e37])
def test_rewards_past_float32_are_named(reward: float, critic: str) -> None:
    class Rich(gymnasium.RewardWrapper):
        def reward(self, _: Any) -> float:
            return reward

    agent = TRPO(lambda: Rich(gymnasium.make("CartPole-v1")), critic=critic, **SMALL)
    before = parameters(agent)
    with pytest.raises(ValueError, match=r"^rewards: expected ones whose returns float32 can"):
        agent.learn(64)
    assert torch.equal(before, parameters(agent))
    scaled = TRPO(lambda: Rich(gymnasium.make("CartPole-v1")), normalize_rewards=True, **SMALL)
    assert scaled.learn(64).updates == 1


def test_an_environment_whose_worker_died_can_be_closed() -> None:
    agent = TRPO("CartPole-v1", engine="async", **SMALL)
    agent.train_once()
    processes = agent.envs.venv.processes
    os.kill(processes[0].pid, signal.SIGKILL)
    processes[0].join()
    with pytest.raises(EnvError, match="a worker process died"):
        agent.train_once()
    agent.close()
    agent.close()
    assert not any(process.is_alive() for process in processes)


MASKS = [
    (np.ones(4), r"3 choices for each of 1 observations, got shape \[4\]"),
    (np.ones((2, 3)), r"3 choices for each of 1 observations, got shape \[2, 3\]"),
    ("left", "3 choices for each of 1 observations, got str"),
    (np.zeros(3), "at least one allowed choice for every observation, got none"),
]


@pytest.mark.parametrize(("mask", "sentence"), MASKS)
def test_a_mask_that_does_not_fit_is_named(mask: Any, sentence: str) -> None:
    agent = TRPO(Masked, **SMALL)
    with pytest.raises(ValueError, match=f"^action_mask: expected {sentence}"):
        agent.predict(np.zeros(2), action_mask=mask)
    for fits in ([0, 1, 0], (0, 1, 0), np.array([[False, True, False]])):
        assert agent.predict(np.zeros(2), action_mask=fits) == 1
    with pytest.raises(ValueError, match=r"^action_mask: expected None for a head"):
        TRPO("Pendulum-v1", **SMALL).predict(np.zeros(3), action_mask=np.ones(1))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_observations_that_are_not_finite_have_no_action(value: float) -> None:
    agent = TRPO("CartPole-v1", **SMALL)
    for obs in ([0.0, value, 0.0, 0.0], torch.tensor([[0.0] * 4, [0.0, value, 0.0, 0.0]])):
        with pytest.raises(ValueError, match=rf"^obs: expected finite numbers, got {value} at"):
            agent.predict(obs)


SETTINGS = [
    ({"device": "meta"}, "device: expected one that works here, got 'meta'"),
    ({"num_envs": 10**12}, "num_envs: expected an integer of at most 1000000, got 1000"),
    (
        {"num_envs": 10**6},
        "num_envs: expected at most 65536 copies with engine='sync', got ",
    ),
    ({"max_kl": float("inf")}, "max_kl: expected a finite number above 0, got inf"),
    ({"damping": float("inf")}, "damping: expected a finite number of at least 0, got inf"),
]


@pytest.mark.parametrize(("settings", "sentence"), SETTINGS)
def test_settings_that_no_machine_can_follow_are_sentences(settings: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        TRPO("CartPole-v1", **settings)


def test_an_endless_observation_clip_clips_nothing(tmp_path: Path) -> None:
    settings = SMALL | {"observation_clip": float("inf"), "normalize_observations": True}
    agent = TRPO("CartPole-v1", **settings).learn(64)
    agent.save(tmp_path / "c")
    assert TRPO.load(tmp_path / "c").learn(64).config.observation_clip == float("inf")
    with pytest.raises(ValueError, match=r"^observation_clip: .* above 0 or inf, got -inf"):
        TRPO("CartPole-v1", **(settings | {"observation_clip": -float("inf")}))


def test_an_agent_in_one_line() -> None:
    agent = TRPO("CartPole-v1", **SMALL)
    assert repr(agent) == (
        "TRPO('CartPole-v1', algorithm='trpo', num_envs=2, steps=0, updates=0, device='cpu', "
        "backend='auto')"
    )
    assert "steps=64, updates=1, device='cpu', backend='cpu')" in repr(agent.learn(64))


def test_a_compiled_policy_is_saved_as_the_one_inside(tmp_path: Path) -> None:
    agents = [TRPO("CartPole-v1", **SMALL) for _ in range(2)]
    agents[0].policy = torch.compile(agents[0].policy, backend="eager")
    for agent in agents:
        agent.learn(128).save(tmp_path / "c")
    agents[0].save(tmp_path / "c")
    assert torch.equal(parameters(TRPO.load(tmp_path / "c")), parameters(agents[1]))


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_an_agent_is_copied_by_saving_it(how: Any) -> None:
    with pytest.raises(TypeError, match=r"^TRPO: expected save\(path\) and load\(path\)"):
        how(TRPO("CartPole-v1", **SMALL))
