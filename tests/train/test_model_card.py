"""Model cards: what hubs read from the front matter, code that runs beside the file, and the
command that writes both.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

from envs_for_tests import Masked
from small_runs import SMALL, refused, train

from trpo_fast import TRPO, Evaluation, evaluate
from trpo_fast._base import toml
from trpo_fast.cli.main import main
from trpo_fast.train.config import from_dict
from trpo_fast.train.export import export


def front(card: Path) -> dict[str, Any]:
    """The front matter as a hub reads it."""
    yaml = pytest.importorskip("yaml")
    _, matter, _ = card.read_text().split("---\n", 2)
    return yaml.safe_load(matter)


def blocks(card: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", card.read_text(), re.DOTALL)


def test_the_front_matter_is_what_hubs_read(tmp_path: Path) -> None:
    agent = TRPO("CartPole-v1", **SMALL).learn(64)
    played = Evaluation([10.0, 20.0], [10, 20])
    export(agent, tmp_path / "policy.pt2", card="README.md", evaluation=played)
    found = front(tmp_path / "README.md")
    assert set(found) == {"library_name", "tags", "model-index"}
    assert found["library_name"] == "trpo-fast"
    assert {"CartPole-v1", "reinforcement-learning", "trpo-fast"} <= set(found["tags"])
    (model,) = found["model-index"]
    (result,) = model["results"]
    assert model["name"] == "TRPO on CartPole-v1"
    assert result["task"]["type"] == "reinforcement-learning"
    assert result["dataset"] == {"name": "CartPole-v1", "type": "CartPole-v1"}
    (metric,) = result["metrics"]
    assert metric["type"] == "mean_reward" and metric["value"] == "15.00 +/- 5.00"
    assert metric["verified"] is False
    text = (tmp_path / "README.md").read_text()
    assert "trained for 64 environment steps" in text and f"{played}" in text


CASES = [("Pendulum-v1", ".pt2", False), (Masked, ".pt2", True), (Masked, ".onnx", False)]


def use_reference_runtime(patch: pytest.MonkeyPatch) -> None:
    """What a card calls of onnxruntime, by the evaluator that comes with ONNX."""
    from onnx.reference import ReferenceEvaluator

    runtime: Any = ModuleType("onnxruntime")
    runtime.InferenceSession = ReferenceEvaluator
    patch.setitem(sys.modules, "onnxruntime", runtime)


@pytest.mark.parametrize(("env", "ending", "single"), CASES)
@pytest.mark.filterwarnings("ignore")
def test_its_code_runs_and_its_settings_are_the_agents(
    env: Any, ending: str, single: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ending == ".onnx":
        pytest.importorskip("onnxscript")
    agent = TRPO(env, **SMALL).learn(64)
    export(agent, tmp_path / f"p{ending}", single=single, card="CARD.md")
    monkeypatch.chdir(tmp_path)
    (settings,) = blocks(tmp_path / "CARD.md", "toml")
    (tmp_path / "c.toml").write_text(settings)
    assert from_dict(toml.read(tmp_path / "c.toml")) == agent.config
    (code,) = blocks(tmp_path / "CARD.md", "python")
    if ending == ".onnx":
        use_reference_runtime(monkeypatch)
    names: dict[str, Any] = {}
    exec(code, names)
    width = agent.collector.layout.mask_width
    obs = torch.zeros(1, agent.policy.spec.widths[0])
    mask = torch.ones(1, width, dtype=torch.bool) if width else None
    wanted = agent.predict(obs, action_mask=mask)
    got = np.asarray(names["action"])
    np.testing.assert_allclose(got, wanted[0] if single else wanted, rtol=1e-5)


@pytest.mark.parametrize(("ending", "single"), [(".pt2", False), (".pt2", True), (".onnx", False)])
@pytest.mark.filterwarnings("ignore")
def test_the_code_of_a_policy_with_a_memory_runs(
    ending: str, single: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ending == ".onnx":
        pytest.importorskip("onnxscript")
    agent = TRPO(Masked, policy="lstm", cell_width=4, **SMALL)
    evaluation = Evaluation([1.0], [1])
    export(agent, tmp_path / f"p{ending}", single=single, card="CARD.md", evaluation=evaluation)
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(tmp_path / "CARD.md", "python")
    if ending == ".onnx":
        use_reference_runtime(monkeypatch)
    names: dict[str, Any] = {}
    exec(code, names)
    obs = torch.zeros(2 if single else (1, 2))
    action, state = agent.predict(obs, action_mask=torch.ones(3, dtype=torch.bool))
    np.testing.assert_allclose(np.asarray(names["action"]), action)
    np.testing.assert_allclose(np.asarray(names["state"]), state, rtol=1e-5)


def test_the_return_is_that_of_ten_episodes(tmp_path: Path) -> None:
    agent = TRPO("CartPole-v1", **SMALL).learn(64)
    agent.export(tmp_path / "policy.pt2", card="README.md")
    played = evaluate(agent, 10)
    score = front(tmp_path / "README.md")["model-index"][0]["results"][0]["metrics"][0]["value"]
    assert score == f"{played.mean:.2f} +/- {played.std:.2f}"
    for name in ("", "a/b.md"):
        with pytest.raises(ValueError, match=r"^card: expected the name of a file"):
            agent.export(tmp_path / "other.pt2", card=name)
    assert not (tmp_path / "other.pt2").exists()


def test_the_command_writes_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tyro")
    run, file = tmp_path / "run", tmp_path / "policy.pt2"
    assert train(run, 64) == 0
    assert main(["export", str(run), str(file)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy.pt2", "run"]
    capsys.readouterr()
    words = ["--single", "--card", "README.md", "--episodes", "2"]
    assert main(["export", *words, str(run), str(file)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{file}\n" and "over 2 episodes" in said.err
    assert said.err.strip() in (tmp_path / "README.md").read_text()
    assert torch.export.load(file).module()(torch.zeros(4)).shape == ()
    refused(["export", str(run)], "RUN FILE: expected a run and a file", capsys, status=2)
    refused(["export", str(run), "p.zip"], "FILE: expected an ending of .pt2 or .onnx", capsys)
