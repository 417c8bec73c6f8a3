"""Exported policies equal predict, for every head and way of mapping actions, for any number of
rows.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")

from envs_for_tests import Counting, Masked
from gymnasium import spaces
from small_runs import SMALL

from trpo_fast import Categorical, MLPPolicy
from trpo_fast.train.export import export
from trpo_fast.train.export_formats import FORMATS
from trpo_fast.train.trainer import TRPO

CASES = [
    ("CartPole-v1", {}),
    ("Pendulum-v1", {"action_mode": "squash", "std": "state"}),
    ("Pendulum-v1", {"action_mode": "scale"}),
    ("Pendulum-v1", {"engine": "tensor", "action_mode": "clip"}),
]
SPACES = {
    "float64 matrix": spaces.Box(0, 1, (2, 2), np.float64),
    "int32 box": spaces.Box(0, 5, (2,), np.int32),
    "bits": spaces.MultiBinary(3),
    "matrix of bits": spaces.MultiBinary([2, 2]),
    "matrix of choices": spaces.MultiDiscrete([[2, 3], [1, 2]], start=[[1, 0], [0, 1]]),
    "choices from two": spaces.Discrete(3, start=2),
    "int32 choices": spaces.Discrete(3, dtype=np.int32),
    "all of float32": spaces.Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (2,)),
}
SHAPED = [*((".pt2", name) for name in SPACES), (".onnx", "float64 matrix"), (".onnx", "bits")]


@pytest.mark.parametrize(("env", "settings"), CASES, ids=str)
def test_a_torch_program_equals_predict(env: str, settings: dict[str, Any], tmp_path: Path) -> None:
    agent = TRPO(env, **SMALL, **settings).learn(128)
    program = torch.export.load(export(agent, tmp_path / "policy.pt2")).module()
    for rows in (1, 5, 33):
        obs = torch.randn(rows, agent.policy.spec.widths[0])
        torch.testing.assert_close(program(obs), torch.as_tensor(agent.predict(obs)))


@pytest.mark.parametrize("ending", [".pt2", ".onnx"])
@pytest.mark.parametrize("env", ["Pendulum-v1", Masked])
@pytest.mark.filterwarnings("ignore")
def test_a_program_for_one_observation_gives_one_action(
    env: Any, ending: str, tmp_path: Path
) -> None:
    if ending == ".onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxscript")
    agent = TRPO(env, **SMALL).learn(64)
    agent.export(tmp_path / f"one{ending}", single=True)
    obs, mask = torch.randn(agent.policy.spec.widths[0]), torch.tensor([False, True, False])
    inputs = {"obs": obs, "mask": mask} if env is Masked else {"obs": obs}
    data = (tmp_path / f"one{ending}").read_bytes()
    action = FORMATS[ending][1](data)(inputs)
    wanted = agent.predict(obs, action_mask=inputs.get("mask"))
    assert action.shape == wanted.shape and action.dtype == wanted.dtype
    torch.testing.assert_close(action, wanted)
    if env is Masked:
        assert int(action) == 1


@pytest.mark.parametrize("single", [False, True])
def test_a_program_returns_no_gradients(single: bool, tmp_path: Path) -> None:
    agent = TRPO("Pendulum-v1", **SMALL).learn(64)
    agent.export(tmp_path / "p.pt2", single=single)
    program = torch.export.load(tmp_path / "p.pt2").module()
    action = program(torch.randn(3) if single else torch.randn(5, 3))
    assert not action.requires_grad and action.numpy().shape == ((1,) if single else (5, 1))
    assert all(p.requires_grad for p in agent.policy.parameters())  # the agent trains on


def test_an_export_says_nothing(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    code = (
        "from trpo_fast.train.trainer import TRPO\n"
        "agent = TRPO('Pendulum-v1', num_envs=2, rows_per_update=64, hidden=(8,)).learn(64)\n"
        f"agent.export({str(tmp_path / 'p.onnx')!r})\n"
        f"agent.export({str(tmp_path / 'p.pt2')!r})\n"
        "import logging, warnings\n"
        "logging.getLogger('torch.onnx._internal.exporter._registration').warning('kept')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1 and "kept" in done.stderr
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("ending", "name"), SHAPED)
@pytest.mark.filterwarnings("ignore")
def test_shapes_and_types_are_the_spaces_everywhere(name: str, ending: str, tmp_path: Path) -> None:
    space = SPACES[name]
    if ending == ".onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxscript")

    class Env(Counting):
        action_space = space

        def step(self, action: Any) -> Any:
            return super().step(0)

    agent = TRPO(Env, **SMALL).learn(64)
    path = export(agent, tmp_path / f"policy{ending}")  # compares shapes and types as well
    obs = torch.randn(3, 2)
    array, tensor = agent.predict(obs.numpy()), agent.predict(obs)
    assert array.shape == tuple(tensor.shape) == (3, *space.shape)
    assert array.dtype == tensor.numpy().dtype == space.dtype
    np.testing.assert_allclose(array, tensor.numpy())
    if ending == ".pt2":
        torch.testing.assert_close(torch.export.load(path).module()(obs), tensor)


class Doubled(MLPPolicy):
    def distribution_params(self, obs: Any, action_mask: Any = None) -> Any:
        return super().distribution_params(1.0 - 2.0 * obs, action_mask)


class Loud(MLPPolicy):
    def forward(self, obs: Any, action_mask: Any = None) -> Any:
        return super().forward(2.0 * obs, action_mask)


def test_a_policy_of_ones_own_is_exported_as_it_acts(tmp_path: Path) -> None:
    agent = TRPO("CartPole-v1", policy=Doubled(4, Categorical(2), (8,)), **SMALL).learn(128)
    program = torch.export.load(export(agent, tmp_path / "policy.pt2")).module()
    obs = torch.randn(33, 4)
    torch.testing.assert_close(program(obs), torch.as_tensor(agent.predict(obs)))
    with pytest.raises(ValueError, match=r"policy: expected one that acts by .* its own forward"):
        TRPO("CartPole-v1", policy=Loud(4, Categorical(2), (8,)), **SMALL).learn(64)


class MaskedPairs(Masked):
    """The same mask for both halves of an action."""

    action_space = spaces.MultiDiscrete([3, 3])

    def _mask(self) -> np.ndarray:
        return np.tile(super()._mask(), 2)

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action[0])
        return obs, reward, terminated, truncated, info


@pytest.mark.parametrize("env", [Masked, MaskedPairs])
def test_a_masked_policy_takes_the_mask_as_an_input(env: Any, tmp_path: Path) -> None:
    agent = TRPO(env, **SMALL).learn(64)
    program = torch.export.load(export(agent, tmp_path / "policy.pt2")).module()
    width = agent.collector.layout.mask_width
    for rows, allowed in ((1, 0), (5, 1), (33, 2)):
        obs, mask = torch.randn(rows, 2), torch.zeros(rows, width // 3, 3, dtype=torch.bool)
        mask[..., allowed] = True
        actions = program(obs, mask.flatten(1))
        assert (actions == allowed).all()
        wanted = torch.as_tensor(agent.predict(obs, action_mask=mask.flatten(1)))
        assert torch.equal(actions, wanted)


@pytest.mark.filterwarnings("ignore")
def test_an_onnx_model_has_the_mask_as_well(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model = onnx.load(export(TRPO(Masked, **SMALL).learn(64), tmp_path / "policy.onnx"))
    assert [value.name for value in model.graph.input] == ["obs", "mask"]


@pytest.mark.filterwarnings("ignore")
def test_an_onnx_model_equals_predict(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    agent = TRPO("Pendulum-v1", **SMALL).learn(64)
    model = onnx.load(export(agent, tmp_path / "policy.onnx"))
    onnx.checker.check_model(model)
    assert [value.name for value in model.graph.input] == ["obs"]


def test_a_policy_that_does_not_match_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = TRPO("Pendulum-v1", **SMALL).learn(64)
    monkeypatch.setattr(agent, "predict", lambda obs, **_: torch.full((len(obs), 1), 7.0))
    with pytest.raises(RuntimeError, match="differs from predict"):
        export(agent, tmp_path / "policy.pt2")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    good = export(agent, tmp_path / "policy.pt2").read_bytes()
    monkeypatch.setattr(agent, "predict", lambda obs, **_: torch.full((len(obs), 1), 7.0))
    with pytest.raises(RuntimeError, match=r"policy\.pt2 differs from predict"):
        export(agent, tmp_path / "policy.pt2")  # what was there before stays
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [good]


def test_other_endings_are_refused(tmp_path: Path) -> None:
    agent = TRPO("CartPole-v1", **SMALL)
    with pytest.raises(ValueError, match=r"path: expected an ending of \['.onnx', '.pt2'\]"):
        export(agent, tmp_path / "policy.pkl")
