"""The index in `trpo_fast.theory` names only functions and tests that exist."""

import ast
import importlib
import re
from pathlib import Path

import trpo_fast.theory as theory

ENTRIES = re.findall(r"^(\S.*)\n((?:    .*\n)+)", (theory.__doc__ or "") + "\n", re.MULTILINE)


def written_tests() -> set[str]:
    files = Path(__file__).parent.glob("test_theory_*.py")
    return {
        node.name
        for file in files
        for node in ast.parse(file.read_text()).body
        if hasattr(node, "name")
    }


def test_every_entry_has_functions_and_tests_that_exist() -> None:
    tests, mentioned = written_tests(), set()
    for statement, body in ENTRIES:
        functions = [word for word in body.split() if "." in word]
        checks = {word for word in body.split() if "." not in word}
        assert functions and checks and checks <= tests, (statement, checks - tests)
        for path in functions:
            module, function = path.split(".")
            found = getattr(importlib.import_module(f"trpo_fast.theory.{module}"), function)
            assert callable(found) and function in theory.__all__, path
        mentioned |= checks
    assert len(ENTRIES) == 28 and len(mentioned) > 40


def test_the_package_uses_nothing_else_of_trpo_fast() -> None:
    for file in Path(theory.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1 and not (node.module or "").startswith("trpo_fast"), (
                    file.name
                )
