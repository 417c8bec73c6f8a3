"""The README does what it says: every block of Python and every command of it runs, its figures
come from JSON, and it points at files that exist.

Blocks run in their order, in one namespace and an empty directory. Two things are made small for
that: a number of Python with an underscore in it (such as 100_000), which is how the page writes
how much to train, and the size of the runs that ``trpo-fast train`` begins. A block whose first
line is ``# NAME.py`` is that file; one that needs a GPU has a comment above it and is only
compiled.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "README.md"
if not PAGE.exists():
    pytest.skip("the README needs a checkout", allow_module_level=True)

GPU = "<!-- needs a GPU -->"
BLOCK = re.compile(rf"^(?:({re.escape(GPU)})\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
AMOUNT = re.compile(r"\b\d{1,3}(?:_\d{3})+\b")
SMALL_RUN = "--steps 256 --num-envs 2 --rows-per-update 64 --hidden 8".split()


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    needs_gpu: bool
    line: int  # of the page

    def code(self, text: str) -> Any:
        """Compiled so that an error names the line of the page."""
        return compile("\n" * self.line + text, str(PAGE), "exec")


def blocks(page: str, language: str) -> list[Block]:
    found = []
    for match in BLOCK.finditer(page):
        if match[2] == language:
            line = page[: match.start(3)].count("\n")
            found.append(Block(match[2], match[3], match[1] is not None, line))
    return found


def run_python(page: str, folder: Path) -> dict[str, Any]:
    """The namespace that the page's blocks of Python leave."""
    names: dict[str, Any] = {"__name__": "readme"}
    for block in blocks(page, "python"):
        small = AMOUNT.sub("256", block.text)
        if named := re.match(r"# (\w+\.py)\n", small):
            (folder / named[1]).write_text(small)
        elif not block.needs_gpu:
            exec(block.code(small), names)
        else:
            block.code(small)
    return names


def commands(page: str) -> list[list[str]]:
    """The words of every line of the shell blocks."""
    lines = [line for block in blocks(page, "sh") for line in block.text.splitlines()]
    words = (shlex.split(line, comments=True) for line in lines)
    return [line for line in words if line]


@pytest.fixture
def page() -> str:
    return PAGE.read_text()


@pytest.fixture
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_every_block_of_python_runs(page: str, empty_place: Path) -> None:
    pytest.importorskip("gymnasium")
    pytest.importorskip("safetensors")
    names = run_python(page, empty_place)
    sys.modules.pop("my_envs", None)
    assert names["info"].reason == "accepted" and names["agent"].steps >= 256
    assert len(blocks(page, "python")) >= 8
    assert AMOUNT.search(page) and GPU in page  # both rules are in use


def test_a_block_that_fails_is_found(tmp_path: Path) -> None:
    good, bad = "```python\nx = 1_000\n```\n", "```python\nassert x == 1_000\nx.steps\n```\n"
    assert run_python(good, tmp_path)["x"] == 256
    with pytest.raises(AttributeError) as error:
        run_python(good + bad, tmp_path)
    assert error.traceback[-1].lineno == 5  # counted from zero
    with pytest.raises(SyntaxError):
        run_python(f"{GPU}\n```python\nx = = 1\n```\n", tmp_path)
    run_python(f"{GPU}\n```python\nraise ValueError\n```\n", tmp_path)


@pytest.mark.slow
def test_every_command_runs(
    page: str, empty_place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("gymnasium", "safetensors", "tyro", "matplotlib"):
        pytest.importorskip(module)
    target = re.search(r'^trpo-fast = "(.*):(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert target is not None
    main = getattr(importlib.import_module(target[1]), target[2])
    ours = [words[1:] for words in commands(page) if words[0] == "trpo-fast"]
    for words in ours:
        if words[0] == "tune" and importlib.util.find_spec("optuna") is None:
            continue
        if words[0] in ("train", "tune") and "--help" not in words:
            words = [*words, *SMALL_RUN]
        try:
            status = main(words)
        except SystemExit as end:  # how tyro ends after --help
            status = int(end.code or 0)
        said = capsys.readouterr()
        assert status == 0, f"trpo-fast {' '.join(words)}\n{said.out}{said.err}"
    commanded = set("train resume eval export tune plot doctor".split())
    assert {words[0] for words in ours} == commanded
    assert (empty_place / "curves.png").exists() and (empty_place / "runs" / "c").is_dir()


def test_it_installs_extras_that_exist(page: str) -> None:
    extras = re.search(
        r"optional-dependencies\]\n(.*?)\n\n", (ROOT / "pyproject.toml").read_text(), re.DOTALL
    )
    assert extras is not None
    known = set(re.findall(r"^([\w-]+) =", extras[1], re.MULTILINE))
    installs = [words for words in commands(page) if words[:2] == ["pip", "install"]]
    asked = {e for words in installs for e in re.findall(r"[\w-]+", words[-1].partition("[")[2])}
    listed = set(
        re.findall(r"`([\w-]+)`", " ".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)))
    )
    assert asked and asked <= known
    assert listed == known
    assert {words[0] for words in commands(page)} <= {"pip", "trpo-fast", "make"}


def test_it_names_targets_of_make_that_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`", page))
    assert "test" in named and named <= targets


def test_links_lead_to_files_that_exist(page: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page)
    assert len(links) >= 8
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert page.count("](#") == len(re.findall(r"\]\(#(?:speed|limits)\)", page))


def test_the_headline_is_the_range_of_the_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    plot = importlib.import_module("plot")

    def row(case: str, threads: int, backend: str = "cpu", **ratio: float) -> Any:
        return SimpleNamespace(
            case=case, backend=backend, precision="fp32", threads=threads, ratio=ratio
        )

    rows = [row("a", 2, sb3=12.0, jax_jit=2.0), row("b", 2, sb3=3.0), row("b", 1, sb3=99.0)]
    other = [row("b", 8, sb3=5.0), row("b", 8, "reference", sb3=0.5)]
    found = {"here": [("cg.json", {}, rows)], "there": [("cg.json", {}, other)]}
    monkeypatch.setattr(plot, "documents", lambda: found)
    said = plot.headline()
    assert "2 machines, 2 networks" in said
    assert "sb3-contrib 3.0 to 12.0 times, JAX 2.0 to 2.0 times as long" in said
    monkeypatch.setattr(plot, "documents", dict)
    assert plot.headline() == "not measured yet\n"
