"""docs/names.md has a row for every argument of sb3-contrib's class, with the defaults of both."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gymnasium")

import trpo_fast
from trpo_fast import TRPO, Config
from trpo_fast.train.other_libraries import LEARN, SETTINGS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "names.md"
if not PAGE.exists():
    pytest.skip("the page needs a checkout", allow_module_level=True)


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its title."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:]]
    return [[cell.strip() for cell in row] for row in cells]


def value(cell: str) -> Any:
    """What a cell in backticks says in Python; nothing for an empty one."""
    return ast.literal_eval(cell.strip("`")) if cell else inspect.Parameter.empty


ARGUMENTS = {row[0].strip("`"): row[1:] for row in rows("Arguments of the class")}


def test_the_rows_are_the_arguments_of_sb3_contrib_with_their_defaults() -> None:
    sb3_contrib = pytest.importorskip("sb3_contrib")
    parameters = dict(inspect.signature(sb3_contrib.TRPO.__init__).parameters)
    parameters.pop("self")
    assert list(ARGUMENTS) == list(parameters)
    for name, parameter in parameters.items():
        assert value(ARGUMENTS[name][0]) == parameter.default, name


def test_our_names_are_settings_with_their_defaults() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    own = inspect.signature(TRPO.__init__).parameters
    named = 0
    for _, ours, default, _ in ARGUMENTS.values():
        if ours:
            name = ours.strip("`")
            wanted = defaults[name] if name in defaults else own[name].default
            assert value(default) == wanted, name
            named += 1
        else:
            assert not default
    assert named >= 14


@pytest.mark.parametrize("name", SETTINGS)
def test_the_errors_and_the_page_say_the_same(name: str) -> None:
    """What a wrong name of a setting is answered with stands in its row as well."""
    page = PAGE.read_text() if name == "n_envs" else " ".join(ARGUMENTS[name])
    known = {*Config.__dataclass_fields__, "ConsoleLogger", "TensorBoardLogger"}
    words = [word for word in re.findall(r"\w+", SETTINGS[name]) if word in known]
    assert words and all(f"`{word}`" in page for word in words)


def test_every_argument_in_the_page_is_one() -> None:
    settings = set(Config.__dataclass_fields__)
    learn = set(inspect.signature(TRPO.learn).parameters)
    around = rows("What is around it")
    assert all(len(row) == 2 for row in around)
    theirs = " ".join(row[0] for row in around)
    for name in LEARN:
        assert name in theirs or name == "tb_log_name"
    for cell in [row[1] for row in around] + [row[3] for row in ARGUMENTS.values()]:
        for code in re.findall(r"`([^`]+)`", cell):
            for name in re.findall(r"\b(\w+)=", code):
                known = settings | learn | {"deterministic", "every", "directory"}
                assert name in known or name == "reset_num_timesteps", name
            for name in re.findall(r"\b(\w+(?:Logger|Callback)|evaluate)\(", code):
                assert hasattr(trpo_fast, name), name


@pytest.mark.slow
def test_its_script_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("10_000", "2_048").replace("10)", "2)"), names)
    assert names["agent"].steps == 2048
