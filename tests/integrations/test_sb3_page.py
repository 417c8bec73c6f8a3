"""``docs/sb3.md`` does what it says: its code runs, small."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sb3_contrib")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sb3.md"
if not PAGE.exists():
    pytest.skip("the page needs a checkout", allow_module_level=True)


def test_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one namespace; a number with an underscore in it is how much to train."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    text = PAGE.read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    for block in blocks:
        code = "\n" * text[: block.start(1)].count("\n") + re.sub(r"\b\d+_\d{3}\b", "256", block[1])
        exec(compile(code, str(PAGE), "exec"), names)
    assert len(blocks) == 3
    assert (names["model"]._n_updates, names["again"]._n_updates) == (1, 2)
    assert (tmp_path / "from_stock.zip").exists()
