"""Names in the package: each means one thing, and none has to be decoded."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Words that once stood in names and said nothing of what the thing does.
RIDDLES = {"bell", "farewell", "forget", "lose", "mourn", "nap", "naps", "settle"}
OTHERS = ("trpo_fast/theory/", "trpo_fast/integrations/")


def definitions() -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef]]:
    """(file, class or function) for every one of the package, methods included."""
    for path in sorted((ROOT / "trpo_fast").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                yield path.relative_to(ROOT).as_posix(), node


def test_classes_have_names_of_their_own() -> None:
    """Outside of theory/, whose classes are those of its statements, and of integrations/, where
    they are those of the libraries.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for file, node in definitions():
        if isinstance(node, ast.ClassDef) and not file.startswith(OTHERS):
            found[node.name].append(file)
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_definitions_are_named_in_plain_words() -> None:
    words = {
        f"{file}: {node.name}": set(re.findall("[A-Z]?[a-z]+", node.name))
        for file, node in definitions()
    }
    assert [name for name, parts in words.items() if {p.lower() for p in parts} & RIDDLES] == []


def test_files_that_comments_name_are_there() -> None:
    """Of the kernels' sources, by their name or by their path."""
    files = [*(ROOT / "csrc").rglob("*.*"), *(ROOT / "tests").rglob("*.*")]
    files += (ROOT / "trpo_fast").rglob("*.py")
    known = {path.name for path in files} | {path.relative_to(ROOT).as_posix() for path in files}
    missing = []
    for path in (ROOT / "csrc").rglob("*.*"):
        for comment in re.findall("//.*", path.read_text()):
            for name in re.findall(r"[\w/]+\.(?:h|cuh|inc|cpp|cu|py)\b", comment):
                short = {name, f"csrc/{name}", f"csrc/cuda/{name}", f"csrc/cpu/{name}"}
                if not short & known:
                    missing.append(f"{path.relative_to(ROOT)}: {name}")
    assert missing == []
