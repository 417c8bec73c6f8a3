"""The README points at files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="no source tree")
def test_every_file_of_the_stage_table_exists():
    table = re.findall(r"^\|.*", (ROOT / "README.md").read_text(), re.MULTILINE)
    names = re.findall(r"`([\w/]+\.(?:py|cpp|h|cuh|cu))`", "\n".join(table))
    assert len(names) >= 20
    missing = [
        n for n in names if not (ROOT / n).exists() and not (ROOT / "trpo_fast" / n).exists()
    ]
    assert not missing
