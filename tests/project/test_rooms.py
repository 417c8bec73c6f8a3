"""The folders of the package and of the kernels: imports and includes go one way, in no circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Each folder imports from itself and from those before it.
FOLDERS = (
    "_base", "policy", "core", "backends", "updates", "learner", "envs", "train", "theory",
    "integrations", "bench", "cli",
)  # fmt: skip
ALONE = {"theory"}  # imports nothing of the package
CSRC = (
    "shared", "cpu/runtime", "cpu/kernels", "cpu/operator", "cpu/learner", "cuda/prims",
    "cuda/resident", "cuda/learner", "cuda", "bindings",
)  # fmt: skip
EMULATOR = "emulate.h"  # what dev.h includes in place of CUDA's headers; it is the tests'


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name without the package's own."""
    found = {}
    for path in (ROOT / "trpo_fast").rglob("*.py"):
        parts = path.relative_to(ROOT / "trpo_fast").with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imported(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[tuple[str, bool]]:
    """(module, whether the import stands inside a function) for each import of the package's."""
    tree = ast.parse(path.read_text())
    inside = {
        inner
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(outer)
    }
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted = [a.name for a in node.names if a.name.startswith("trpo_fast")]
        elif isinstance(node, ast.ImportFrom):
            base = ["trpo_fast", *package[: len(package) + 1 - node.level]] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            wanted = [f"{stem}.{a.name}" for a in node.names if stem.startswith("trpo_fast")]
        else:
            continue
        for module in wanted:
            parts = module.split(".")[1:]
            while parts and ".".join(parts) not in known:
                parts.pop()
            yield ".".join(parts), node in inside


def circle(arrows: Mapping[str, Iterable[str]]) -> list[str]:
    """A circle of the graph as its members, or none."""
    done: set[str] = set()
    for start in arrows:
        path: list[str] = []
        stack = [(start, False)]
        while stack:
            node, leaving = stack.pop()
            if leaving:
                path.pop()
                done.add(node)
            elif node in path:
                return [*path[path.index(node) :], node]
            elif node not in done:
                path.append(node)
                stack.append((node, True))
                stack.extend((after, False) for after in arrows.get(node, ()))
    return []


def test_the_circle_finder_finds_circles() -> None:
    assert circle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c", "b"]
    assert circle({"a": ["b", "c"], "b": ["c"], "c": []}) == []


def test_each_folder_imports_from_those_before_it() -> None:
    known = modules()
    wrong = []
    for name, path in known.items():
        room = name.split(".")[0]
        for target, _ in imported(name, path, known):
            other = target.split(".")[0]
            if "." not in target and target not in FOLDERS:
                continue  # _version and the package itself, which every room may name
            allowed = FOLDERS[: FOLDERS.index(room) + 1] if room in FOLDERS else FOLDERS
            if other not in (allowed if room not in ALONE else (room,)):
                wrong.append(f"{name} imports {target}")
    assert not wrong


def test_no_circle_of_modules() -> None:
    known = modules()
    # What a package's __init__ gathers for users is no arrow of its members.
    arrows = {
        name: {t for t, _ in imported(name, path, known) if t and t != name}
        for name, path in known.items()
        if name
    }
    assert circle(arrows) == []


def test_the_top_level_holds_folders_only() -> None:
    entries = [p for p in (ROOT / "trpo_fast").iterdir() if p.name != "__pycache__"]
    files = {p.name for p in entries if p.is_file() and p.suffix != ".so"}
    assert files == {"__init__.py", "__main__.py", "_version.py", "_C.pyi", "py.typed"}
    assert {p.name for p in entries if p.is_dir()} == set(FOLDERS)


def includes() -> dict[str, list[str]]:
    """Every file under csrc with the files of csrc that it includes."""
    found = {}
    for path in (ROOT / "csrc").rglob("*.*"):
        name = path.relative_to(ROOT / "csrc").as_posix()
        named = re.findall(r'#\s*include\s+"([^"]+)"', path.read_text())
        found[name] = [other for other in named if other != EMULATOR]
    return found


def test_includes_name_files_from_csrc_on() -> None:
    found = includes()
    missing = {(a, b) for a, named in found.items() for b in named if b not in found}
    assert not missing


def test_each_folder_of_csrc_includes_those_before_it() -> None:
    wrong = []
    for name, named in includes().items():
        room = CSRC.index(name.rpartition("/")[0])
        for other in named:
            theirs = other.rpartition("/")[0]
            core, core_of_theirs = CSRC[room].split("/")[0], theirs.split("/")[0]
            crossed = {core, core_of_theirs} == {"cpu", "cuda"}
            if CSRC.index(theirs) > room or crossed:
                wrong.append(f"{name} includes {other}")
    assert not wrong


def test_no_circle_of_includes() -> None:
    assert circle(includes()) == []


@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_the_package_reaches_into_no_program_of_the_checkout(folder: str) -> None:
    named = re.compile(rf"""["']{folder}["'/]""")
    found = [name for name, path in modules().items() if named.search(path.read_text())]
    assert not found


def test_functions_are_short() -> None:
    """A function fits on a screen: at most 60 lines, its docstring included."""
    long = []
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
                long.append(f"{name}.{node.name}: {node.end_lineno - node.lineno + 1} lines")
    assert not long
