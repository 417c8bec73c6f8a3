"""docs/processes.md: its code runs on ranks, and leaves them with one policy."""

from __future__ import annotations

from typing import Any

import torch

from tests.support.pages import DOCS, run_page
from trpo_fast import flat_params


def page(group: Any) -> tuple[str, torch.Tensor]:
    torch.manual_seed(torch.distributed.get_rank(group))
    names = run_page(DOCS / "processes.md")
    return names["info"].reason, flat_params(names["policy"]).clone()


def test_its_code_runs(ranks):
    found = ranks.run(page, ranks=3)  # of the page's own group, which is that of all
    assert all(reason == "accepted" and torch.equal(theta, found[0][1]) for reason, theta in found)
