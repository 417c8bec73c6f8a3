"""The pages for whoever changes the project name files, folders and functions that exist.

What stands in backticks and looks like a path is one: ``folder/file.ext``, ``folder/``, or
``file.ext:name`` for something that file defines.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("CONTRIBUTING.md", "docs/architecture.md", "tests/README.md", "tests/emulation/README.md")
ENDINGS = "py pyi h inc cpp cu cuh md toml txt sh".split()
if not (ROOT / PAGES[0]).exists():
    pytest.skip("the pages need a checkout", allow_module_level=True)


def places(page: str) -> list[tuple[str, str]]:
    """(path, name in it or nothing) of everything in backticks that is a path."""
    found = []
    for quoted in re.findall(r"(?<!`)`([^`\n]+)`", page):
        path, _, name = quoted.partition(":")
        written_as_path = re.fullmatch(r"\.?[\w-][\w./-]*", path) is not None
        ending = path.rpartition(".")[2]
        if written_as_path and ("/" in path or (ending in ENDINGS and ending != path)):
            found.append((path, name))
    return found


def missing(page: str, root: Path, folder: str = ".") -> list[str]:
    """What a page in a folder names and neither the tree nor that folder has."""
    gone = []
    for path, name in places(page):
        beside = root / folder / path
        there = beside if beside.exists() else root / path
        exists = there.is_dir() if path.endswith("/") else there.exists()
        if not exists:
            gone.append(path)
        elif name and not re.search(rf"\b{re.escape(name)}\b", there.read_text()):
            gone.append(f"{path}:{name}")
    return gone


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    assert len(places(text)) >= 5
    assert missing(text, ROOT, str(Path(page).parent)) == []


def test_a_name_that_is_gone_is_found(tmp_path: Path) -> None:
    (tmp_path / "rooms").mkdir()
    (tmp_path / "rooms" / "a.py").write_text("def here() -> None: ...\n")
    page = (
        "`rooms/` `rooms/a.py` `rooms/a.py:here` `gone.py` `rooms/a.py:her` `a/b` `gone/` `F @ v`"
    )
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "near.cpp").write_text("")
    assert missing("`near.cpp` `rooms/a.py` `far.cpp`", tmp_path, "pages") == ["far.cpp"]
    assert missing(page + " `info.reason` `make test` `fp16x3` `80,90;100+PTX`", tmp_path) == [
        "gone.py",
        "rooms/a.py:her",
        "a/b",
        "gone/",
    ]


def test_docstrings_name_files_that_exist() -> None:
    """What looks like a source file in a docstring of the package is the end of a path."""
    folders = [ROOT / name for name in ("trpo_fast", "csrc", "tests", "benchmarks")]
    files = {f"/{path.relative_to(ROOT)}" for folder in folders for path in folder.rglob("*.*")}
    for path in folders[0].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                for named in re.findall(r"[\w/]+\.(?:py|h|cpp|cu|cuh)\b", text):
                    assert any(file.endswith(f"/{named}") for file in files), f"{path}: {named}"


def test_the_walk_of_a_vector_is_short() -> None:
    """At most twelve calls from ``F @ v`` to the arithmetic on either core."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.partition("## The way of a vector")[2].partition("\n## ")[0]
    steps = [int(number) for number in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)]
    tables = [i for i, number in enumerate(steps) if number == 1]
    assert len(tables) == 2 and max(steps) <= 12
    assert steps == [*range(1, tables[1] + 1), *range(1, len(steps) - tables[1] + 1)]
