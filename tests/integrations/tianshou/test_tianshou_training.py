"""Training by tianshou's trainer: ``docs/guides/tianshou.md`` does what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tianshou")

from library_script import printed
from pages import DOCS, run_page

from trpo_fast.integrations.tianshou import TRPO


@pytest.mark.slow
def test_the_page_s_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page(DOCS / "guides" / "tianshou.md", 4096)
    stats, algorithm = names["stats"], names["algorithm"]
    assert type(algorithm) is TRPO and stats.update_step == 2 and stats.train_step == 4096
    assert bool((names["actor"].sigma_param != 0.0).all())


def test_the_script_prints_the_ratio_of_times(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ratios = printed("tianshou", monkeypatch, capsys)
    assert ratios["tianshou's TRPO"] == 1.0 and len(ratios) == 4
