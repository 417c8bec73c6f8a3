"""The reference has every exported name once, and is what its program writes today."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

import trpo_fast

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
if not (DOCS / "generate").exists():
    pytest.skip("the reference needs a checkout", allow_module_level=True)


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS / "generate"))
        module = importlib.import_module("reference")
    return module


def test_the_pages_are_up_to_date(reference: ModuleType) -> None:
    stale = ", ".join(f"docs/reference/{name}" for name in reference.outdated())
    assert not stale, f"out of date: {stale}; make reference writes them"


def test_every_exported_name_is_on_one_page(reference: ModuleType) -> None:
    sections = [s for found in reference.placed(reference.Sources()).values() for s in found]
    names = [f"{s.module}.{name}" for s in sections for name in s.names.split()]
    assert len(names) == len(set(names))
    ours = {name for name in trpo_fast.__all__ if name != "__version__"}
    assert {f"trpo_fast.{name}" for name in ours} <= set(names)
    modules = {s.module for s in sections}
    for path in (ROOT / "trpo_fast").rglob("__init__.py"):
        if "\n__all__ = [" in path.read_text():
            assert ".".join(path.relative_to(ROOT).parent.parts) in modules, path


def test_an_entry_has_signature_and_sentence(reference: ModuleType) -> None:
    pages = reference.pages()
    text = pages["updates.md"]
    assert "    cg_iterations: int = 10,\n" in text
    assert ") -> UpdateInfo\n```\n\nMaximise the surrogate" in text
    assert "\n- `solve(g: Tensor," in text and "Settings." not in "".join(pages.values())
    predict = next(line for line in pages["training.md"].splitlines() if "`predict(" in line)
    assert "deterministic: bool = True" in predict
    for name in ("max_kl", "cell_width", "critic_epochs"):
        assert f"| `{name}` | " in pages["settings.md"]


def test_a_page_that_is_out_of_date_is_named(
    reference: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "FOLDER", tmp_path / "pages")
    assert len(reference.outdated()) == len(reference.PAGES) + 2
    assert reference.main(check=False) == 0 and reference.main(check=True) == 0
    (tmp_path / "pages" / "theory.md").write_text("# Theory")
    (tmp_path / "pages" / "other.md").write_text("left over")
    assert reference.outdated() == ["other.md", "theory.md"] and reference.main(check=True) == 1
    assert reference.main(check=False) == 0 and reference.outdated() == []


def test_the_pages_about_pages_point_at_files_and_name_every_page() -> None:
    for page in (DOCS / "README.md", *(DOCS / "reference").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), (page, target)
    index = (DOCS / "README.md").read_text()
    for page in (*DOCS.glob("*.md"), *DOCS.glob("guides/*.md")):
        name = page.relative_to(DOCS).as_posix()
        assert name == "README.md" or f"({name})" in index, name
