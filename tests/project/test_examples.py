"""The examples run: whole where that takes seconds, otherwise a few updates of what they make."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

from trpo_fast import TRPO

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
if not EXAMPLES.exists():
    pytest.skip("examples need a checkout", allow_module_level=True)


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_imports_and_has_a_main(path: Path) -> None:
    if path.stem.startswith("lqr"):
        pytest.importorskip("matplotlib")
    assert callable(example(path.stem).main)


def test_cartpole_trains_until_its_target(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = example("train_cartpole")
    monkeypatch.setattr(module, "SOLVED", 30.0)
    assert module.main() == 0
    assert "CartPole-v1 is solved: 30 reached" in capsys.readouterr().out


def test_hopper_goes_on_from_its_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mujoco")
    module, saved = example("train_hopper"), str(tmp_path / "c")
    for steps in (2048, 4096, 4096):
        module.main(saved, str(steps))
        assert TRPO.load(saved).steps == steps
    assert capsys.readouterr().out.count("over 10 episodes") == 3


def test_the_environment_of_ones_own_trains() -> None:
    env = example("train_tensor_env").Homing(64)
    assert TRPO(env, rows_per_update=640, gamma=0.9).learn(1280).steps == 1280
