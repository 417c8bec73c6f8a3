"""docs/simulators.md: its environment trains, its tables name what there is."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

from trpo_fast import evaluate
from trpo_fast.envs import simulators
from trpo_fast.envs.tensor import TensorEnvironment, TensorStep

PAGE = Path(__file__).resolve().parents[2] / "docs" / "simulators.md"
if not PAGE.exists():
    pytest.skip("the page needs a checkout", allow_module_level=True)
BLOCK = re.compile(r"(<!-- needs .*? -->\n)?```python\n(.*?)```", re.DOTALL)


def test_its_code_runs_and_the_rest_compiles(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    found = BLOCK.findall(PAGE.read_text())
    assert [bool(needs) for needs, _ in found] == [True, True, False]
    for needs, code in found:
        compiled = compile(code, str(PAGE), "exec")
        if not needs:
            exec(compiled, names)
    agent = names["agent"]
    assert agent.steps == 12_800 and agent.critic.net.spec.widths[0] == 3
    assert float(capsys.readouterr().out) > -8.0  # standing still is -13


@pytest.mark.slow
def test_playgrounds_example_learns_to_balance() -> None:
    """Minutes, most of which JAX compiles."""
    pytest.importorskip("mujoco_playground", reason="not installed (make simulators)")
    names: dict[str, Any] = {}
    exec(BLOCK.findall(PAGE.read_text())[0][1], names)
    assert names["agent"].steps == 256_000
    assert evaluate(names["agent"], 8).mean > 180.0  # of 200; a new policy has about 110


def test_the_tables_name_every_member() -> None:
    text = PAGE.read_text()
    fields = {field.name for field in dataclasses.fields(TensorStep)}
    table = text.split("| field of a step | |")[1]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == fields
    members = {name for name in vars(TensorEnvironment) if not name.startswith("_")}
    members |= set(TensorEnvironment.__annotations__)
    assert all(f"`{name}" in text for name in members)
    assert all(f"`{name}(" in text for name in simulators.__all__ if name[0].isupper())
