"""Exported policies equal predict, for every head and way of mapping actions, for any number of
rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("gymnasium")

from trpo_fast.export import export
from trpo_fast.trainer import TRPO

SMALL: dict[str, Any] = {
    "num_envs": 2,
    "rows_per_update": 64,
    "hidden": (8,),
    "critic_hidden": (8,),
}
CASES = [
    ("CartPole-v1", {}),
    ("Pendulum-v1", {"action_mode": "squash", "std": "state"}),
    ("Pendulum-v1", {"action_mode": "scale"}),
    ("Pendulum-v1", {"engine": "tensor", "action_mode": "clip"}),
]


@pytest.mark.parametrize(("env", "settings"), CASES, ids=str)
def test_a_torch_program_equals_predict(env: str, settings: dict[str, Any], tmp_path: Path) -> None:
    agent = TRPO(env, **SMALL, **settings).learn(128)
    program = torch.export.load(export(agent, tmp_path / "policy.pt2")).module()
    for rows in (1, 5, 33):
        obs = torch.randn(rows, agent.policy.spec.widths[0])
        torch.testing.assert_close(program(obs), torch.as_tensor(agent.predict(obs)))


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
    monkeypatch.setattr(agent, "predict", lambda obs: torch.full((len(obs), 1), 7.0))
    with pytest.raises(RuntimeError, match="differs from predict"):
        export(agent, tmp_path / "policy.pt2")
    assert not list(tmp_path.iterdir())


def test_other_endings_are_refused(tmp_path: Path) -> None:
    agent = TRPO("CartPole-v1", **SMALL)
    with pytest.raises(ValueError, match=r"path: expected an ending of \['.onnx', '.pt2'\]"):
        export(agent, tmp_path / "policy.pkl")
