"""``trpo_fast/_C.pyi`` says of the native half what the built module says of itself: the names, the
parameters with their defaults, and the types as far as pybind11 writes them down.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import trpo_fast
from trpo_fast._base import extension

STUB = Path(trpo_fast.__file__).with_name("_C.pyi")
NATIVE = extension.module()
needs_native = pytest.mark.skipif(NATIVE is None, reason=extension.why_missing() or "-")
PLAIN = {"int", "float", "str", "bool", "None"}  # of what pybind11 says of an answer, what is exact
Parameter = tuple[str, str, bool, str | None]  # name, type, whether by keyword alone, default


def plain_type(node: ast.expr | None) -> str:
    """An annotation without what differs between pybind11's spelling and a stub's."""
    said = "" if node is None else ast.unparse(node).replace("trpo_fast._C.", "")
    if "Sequence[" in said or said.lower().startswith("list["):
        return "numbers"
    if said.startswith("dict"):
        return "dict"
    for supported, kind in (("SupportsInt", "int"), ("SupportsFloat", "float")):
        if supported in said:
            return kind
    return said


def described(function: ast.FunctionDef) -> tuple[list[Parameter], str]:
    """Parameters without self, and the type of the answer where pybind11 knows it exactly."""
    at = function.args
    places = [(a, False, None) for a in at.args if a.arg != "self"]
    named = [(a, True, d) for a, d in zip(at.kwonlyargs, at.kw_defaults, strict=True)]
    parameters = [
        (a.arg, plain_type(a.annotation), keyword, None if d is None else ast.unparse(d))
        for a, keyword, d in [*places, *named]
    ]
    return parameters, plain_type(function.returns)


def of_docstring(thing: Any) -> tuple[list[Parameter], str]:
    line = (thing.__doc__ or "").splitlines()[0].replace("::", ".")
    (function,) = ast.parse(f"def {line}: ...").body
    assert isinstance(function, ast.FunctionDef)
    return described(function)


def built(module: ModuleType) -> dict[str, Any]:
    """Every entry of the module by name: a signature, or the kind of thing it is."""
    found: dict[str, Any] = {}
    for name, thing in vars(module).items():
        if name.startswith("__"):
            continue
        if not isinstance(thing, type):
            found[name] = of_docstring(thing) if callable(thing) else "value"
            continue
        found[name] = "class"
        for member, inner in vars(thing).items():
            made_here = member == "__init__" and "*" in (inner.__doc__ or "")
            if member.startswith("_") and not made_here:
                continue
            kind = "property" if isinstance(inner, property) else of_docstring(inner)
            found[f"{name}.{member}"] = kind
    return found


def stubbed(text: str) -> dict[str, Any]:
    """The same of the stub; its names with an underscore are for type checkers alone."""
    found: dict[str, Any] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = described(node)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = "value"
        elif isinstance(node, ast.ClassDef):
            found[node.name] = "class"
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    kind = "property" if inner.decorator_list else described(inner)
                    found[f"{node.name}.{inner.name}"] = kind
    return {n: k for n, k in found.items() if not n.startswith("_")}


def differences(module: dict[str, Any], stub: dict[str, Any]) -> list[str]:
    found = [f"{name} is in one of the two only" for name in module.keys() ^ stub.keys()]
    for name in module.keys() & stub.keys():
        ours, theirs = module[name], stub[name]
        if isinstance(ours, tuple) and isinstance(theirs, tuple):
            if ours[0] != theirs[0]:
                found.append(f"{name}: {ours[0]}, in the stub {theirs[0]}")
            if ours[1] in PLAIN and ours[1] != theirs[1]:
                found.append(f"{name}: returns {ours[1]}, in the stub {theirs[1]}")
        elif ours != theirs:
            found.append(f"{name}: {ours}, in the stub {theirs}")
    return found


@needs_native
def test_the_stub_is_the_module() -> None:
    assert NATIVE is not None
    entries = built(NATIVE)
    assert {"CpuOperator.fvp", "ActRows.__init__", "critic_adam", "families"} <= entries.keys()
    assert differences(entries, stubbed(STUB.read_text())) == []


@needs_native
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("def fvp(self, *, v: int, columns", "def fvp(self, *, w: int, columns"), "CpuOperator.f"),
        (("def selected_isa() -> str: ...", ""), "selected_isa is in one"),
        (("seen: int = 0", "seen: int"), "ActRows.__init__"),
        (("tol: float", "tol: int"), "solve"),
        (("cuda_limits(device: int)", "cuda_limits(*, device: int)"), "cuda_limits"),
        (("threads: int) -> bool", "threads: int) -> int"), "CpuOperator.bad_values: returns"),
    ],
    ids=["renamed", "absent", "no default", "another type", "by keyword", "another answer"],
)
def test_what_the_stub_gets_wrong_is_found(wrong: tuple[str, str], said: str) -> None:
    assert NATIVE is not None
    text = STUB.read_text()
    assert wrong[0] in text
    found = differences(built(NATIVE), stubbed(text.replace(*wrong, 1)))
    assert found and re.search(said, found[0])
