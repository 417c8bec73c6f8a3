"""``docs/sb3.md`` does what it says: its code runs, small, and its names are names."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

pytest.importorskip("sb3_contrib")

from pages import DOCS, run_page

from trpo_fast.integrations.sb3 import TRPO
from trpo_fast.train.config import Config

PAGE = DOCS / "sb3.md"
if not PAGE.exists():
    pytest.skip("the page needs a checkout", allow_module_level=True)


def test_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page(PAGE)
    assert (names["model"]._n_updates, names["again"]._n_updates) == (1, 2)
    assert (tmp_path / "from_stock.zip").exists()


def test_the_table_of_names_has_names() -> None:
    table = PAGE.read_text().partition("## From sb3's names")[2]
    rows = [line.split("|")[1:4] for line in table.splitlines() if line.startswith("| `")]
    theirs, ours = inspect.signature(TRPO.__init__).parameters, set()
    for row in rows:
        first, second = (set(re.findall(r"`(\w+)", cell)) for cell in row[:2])
        assert first <= set(theirs) and second
        ours |= second
    assert len(rows) == 8
    assert ours <= {field.name for field in dataclasses.fields(Config)}
