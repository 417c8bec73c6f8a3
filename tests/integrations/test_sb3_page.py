"""``docs/sb3.md`` does what it says: its code runs, small."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("sb3_contrib")

from pages import DOCS, run_page

PAGE = DOCS / "sb3.md"
if not PAGE.exists():
    pytest.skip("the page needs a checkout", allow_module_level=True)


def test_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page(PAGE)
    assert (names["model"]._n_updates, names["again"]._n_updates) == (1, 2)
    assert (tmp_path / "from_stock.zip").exists()
