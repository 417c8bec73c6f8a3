"""``docs/guides/rsl_rl.md`` does what it says: its code runs, small, and its settings exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("rsl_rl")

from library_script import printed
from pages import DOCS, run_page
from rsl_rl_cases import algorithm

from trpo_fast.integrations.rsl_rl import TRPO

PAGE = DOCS / "guides" / "rsl_rl.md"


def test_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page(PAGE, 2)
    alg = names["runner"].alg
    assert type(alg) is TRPO and alg.critic_method == "gauss_newton"
    assert (tmp_path / "logs" / "model_1.pt").exists()


def test_its_settings_are_settings() -> None:
    """Each with a value that it has anyway."""
    table = PAGE.read_text().partition("## Settings")[2].partition("##")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    names = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    made = algorithm(TRPO)
    known = {**made.step_settings, "critic_method": made.critic_method}
    known |= {f"critic_{name}": value for name, value in made.fit_settings.items()}
    theirs = {name: getattr(made, name) for name in names - {*known, "optimizer", "rnd_cfg"}}
    assert set(known) <= names and {"gamma", "clip_param", "value_loss_coef"} <= set(theirs)
    again = algorithm(TRPO, **known, **theirs, optimizer="adam", rnd_cfg=None)
    assert again.step_settings == made.step_settings


def test_the_script_prints_the_ratio_of_times(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ratios = printed("rsl_rl", monkeypatch, capsys)
    assert ratios["PPO"] == 1.0 and len(ratios) == 4
