"""Pages of the documentation whose blocks of Python are run as tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
AMOUNT = re.compile(r"\b\d{1,3}(?:_\d{3})+\b")


def run_page(path: Path, amount: int = 256) -> dict[str, Any]:
    """What the page's blocks of Python leave in their one namespace; ``amount`` stands in the place
    of every number with an underscore in it, which is how a page writes how much to train.
    """
    if not path.exists():
        pytest.skip("the page needs a checkout")
    names: dict[str, Any] = {"__name__": "page"}
    text = path.read_text()
    blocks = list(BLOCK.finditer(text))
    assert blocks and AMOUNT.search(text)
    for block in blocks:
        code = "\n" * text[: block.start(1)].count("\n") + AMOUNT.sub(str(amount), block[1])
        exec(compile(code, str(path), "exec"), names)
    return names
