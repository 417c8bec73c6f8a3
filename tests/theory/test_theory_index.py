"""The index of `trpo_fast.theory` names only functions and tests that exist, for 46 statements."""

import ast
import importlib
from pathlib import Path

import trpo_fast.theory as theory
from trpo_fast.theory.statements import STATEMENTS

TESTS = Path(__file__).parents[1]
PACKAGE = Path(theory.__file__).parents[1]


def names_in(path: Path) -> set[str]:
    """Functions and classes of a file."""
    return {node.name for node in ast.parse(path.read_text()).body if hasattr(node, "name")}


def exists(word: str) -> bool:
    """Whether a function `module.name` of the theory, a test of it, or what stands in a file
    `room/file.py:name` of the package or of the tests, is there.
    """
    if ":" in word:
        file, name = word.split(":")
        path = (TESTS if Path(file).name.startswith("test_") else PACKAGE) / file
        return path.exists() and name in names_in(path)
    if "." in word:
        module, name = word.split(".")
        found = getattr(importlib.import_module(f"trpo_fast.theory.{module}"), name)
        return callable(found) and name in theory.__all__
    return any(word in names_in(file) for file in (TESTS / "theory").glob("test_theory_*.py"))


def test_every_entry_has_functions_and_tests_that_exist() -> None:
    mentioned: set[str] = set()
    for statement, functions, tests in STATEMENTS:
        checks = tests.split()
        assert checks and functions.split(), statement
        assert all(word.rpartition(":")[2].startswith("test_") for word in checks), statement
        assert [word for word in (*functions.split(), *checks) if not exists(word)] == [], statement
        mentioned |= set(checks)
    assert len(STATEMENTS) == 46 and len(mentioned) > 70


def test_the_package_uses_nothing_else_of_trpo_fast() -> None:
    for file in Path(theory.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1 and not (node.module or "").startswith("trpo_fast"), (
                    file.name
                )
