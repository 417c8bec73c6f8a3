"""Training by skrl's trainer, and ``docs/guides/skrl.md``, which does what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("skrl")

from library_script import printed
from pages import DOCS, run_page

from trpo_fast.integrations.skrl import TRPO


@pytest.mark.slow
def test_the_page_s_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page(DOCS / "guides" / "skrl.md", 64)
    agent = names["agent"]
    assert type(agent) is TRPO and agent._rollout == 64
    path = str(tmp_path / "agent.pt")
    agent.save(path)
    before = {key: value.clone() for key, value in agent.policy.state_dict().items()}
    with torch.no_grad():
        agent.policy.log_std_parameter.add_(1.0)
    agent.load(path)
    torch.testing.assert_close(agent.policy.state_dict(), before, rtol=0.0, atol=0.0)


def test_the_script_prints_the_ratio_of_times(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ratios = printed("skrl", monkeypatch, capsys)
    assert ratios["skrl"] == 1.0 and len(ratios) == 2
