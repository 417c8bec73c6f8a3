"""Zips and policies: what is saved here opens in stock sb3-contrib and the reverse, with the same
actions, parameters and optimiser; a run that was saved goes on.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

pytest.importorskip("sb3_contrib")

from sb3_contrib.trpo.trpo import TRPO as Sb3TRPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from trpo_fast.integrations.sb3 import TRPO

SMALL: dict[str, Any] = {"n_steps": 64, "batch_size": 32, "n_critic_updates": 2, "device": "cpu"}
OBS = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(4, 3)


def run(kind: type, seed: int = 0) -> Any:
    return kind("MlpPolicy", "Pendulum-v1", seed=seed, **SMALL).learn(128)


def same_policies(a: ActorCriticPolicy, b: ActorCriticPolicy) -> None:
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0.0, atol=0.0)
    for deterministic in (True, False):
        torch.manual_seed(0)
        first = a.predict(OBS, deterministic=deterministic)[0]
        torch.manual_seed(0)
        assert np.array_equal(first, b.predict(OBS, deterministic=deterministic)[0])


@pytest.mark.parametrize("kinds", [(TRPO, Sb3TRPO), (Sb3TRPO, TRPO), (TRPO, TRPO)])
def test_a_zip_opens_in_the_other_class(kinds: tuple[type, type], tmp_path: Path) -> None:
    saved = run(kinds[0])
    saved.save(tmp_path / "model")
    loaded = kinds[1].load(tmp_path / "model", env=saved.env)
    assert type(loaded) is kinds[1] and loaded.num_timesteps == 128 and loaded._n_updates == 2
    same_policies(saved.policy, loaded.policy)
    states = [made.policy.optimizer.state_dict() for made in (saved, loaded)]
    assert states[0]["state"]
    torch.testing.assert_close(states[0]["state"], states[1]["state"], rtol=0.0, atol=0.0)
    assert states[0]["param_groups"] == states[1]["param_groups"]
    before = loaded.policy.state_dict()["action_net.weight"].clone()
    loaded.learn(64, reset_num_timesteps=False)
    assert loaded._n_updates == 3
    assert not torch.equal(before, loaded.policy.state_dict()["action_net.weight"])


def test_a_loaded_run_goes_on_as_the_saved_one_does(tmp_path: Path) -> None:
    saved = run(TRPO)
    saved.save(tmp_path / "model")
    ends = []
    for made in (saved, TRPO.load(tmp_path / "model", env=saved.env)):
        made.set_random_seed(3)
        made._last_obs = None
        made.learn(64, reset_num_timesteps=False)
        ends.append(made.policy)
    same_policies(*ends)


def test_nothing_of_this_package_is_in_a_zip(tmp_path: Path) -> None:
    run(TRPO).save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        data = json.loads(archive.read("data"))
        parts = [archive.read(name) for name in archive.namelist()]
    pickled = [v for v in data.values() if isinstance(v, dict) and ":serialized:" in v]
    parts += [base64.b64decode(v[":serialized:"]) for v in pickled]
    assert pickled
    assert len(parts) > 8 and not any(b"trpo_fast" in part for part in parts)


def test_a_process_without_this_package_opens_it(tmp_path: Path) -> None:
    saved = run(TRPO)
    saved.save(tmp_path / "model")
    code = f"""
import sys
sys.modules["trpo_fast"] = None
from sb3_contrib import TRPO
import numpy as np
obs = np.array({OBS.tolist()}, dtype=np.float32)
model = TRPO.load({str(tmp_path / "model")!r}, device="cpu")
print(model.predict(obs, deterministic=True)[0].tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = np.array(json.loads(done.stdout.splitlines()[-1]), np.float32)
    assert np.array_equal(found, saved.predict(OBS, deterministic=True)[0])


def test_a_policy_alone_is_saved_and_loaded(tmp_path: Path) -> None:
    policy = run(TRPO).policy
    policy.save(tmp_path / "policy")
    same_policies(policy, ActorCriticPolicy.load(tmp_path / "policy", device="cpu"))
    assert (tmp_path / "policy").stat().st_size < 200_000  # no buffer is saved more than once


def test_it_learns_with_callbacks_and_normalised_observations() -> None:
    seen: list[int] = []
    env = VecNormalize(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")] * 2))
    made = TRPO("MlpPolicy", env, seed=0, **SMALL)
    made.learn(256, callback=lambda given, _: seen.append(given["self"].num_timesteps) or True)
    assert seen[-1] == 256 and made._n_updates == 2 and env.obs_rms.count > 200
    made = TRPO("MlpPolicy", env, seed=0, **SMALL).learn(256, callback=lambda *_: False)
    assert made._n_updates == 0
