"""docs/updates.md: its code runs, and its sections are those that the README points to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import DOCS, run_page
from torch.distributions import MixtureSameFamily

from trpo_fast import unregister_head

PAGE = DOCS / "updates.md"


@pytest.mark.filterwarnings("ignore")
def test_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        names = run_page(PAGE)
    finally:
        unregister_head(MixtureSameFamily)
    assert names["info"].reason == "accepted" and names["info"].factor_rows == 256


def test_the_readme_points_to_sections_that_exist() -> None:
    readme = DOCS.parent / "README.md"
    if not readme.exists():
        pytest.skip("the page needs a checkout")
    anchors = set(re.findall(r"docs/updates\.md#([\w-]+)", readme.read_text()))
    titles = re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE)
    assert anchors and anchors <= {title.lower().replace(" ", "-") for title in titles}
