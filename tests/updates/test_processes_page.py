"""docs/processes.md: its code runs on ranks, and leaves them with one policy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest
import torch

from tests.support.limits import HANGS
from tests.support.pages import DOCS, run_page
from trpo_fast import flat_params


def page(group: Any) -> tuple[str, torch.Tensor]:
    torch.manual_seed(torch.distributed.get_rank(group))
    names = run_page(DOCS / "processes.md")
    return names["info"].reason, flat_params(names["policy"]).clone()


def test_its_code_runs(ranks):
    found = ranks.run(page, ranks=3)  # of the page's own group, which is that of all
    assert all(reason == "accepted" and torch.equal(theta, found[0][1]) for reason, theta in found)


RUN = """
import os, runpy
from trpo_fast import flat_params
from trpo_fast._base.ranks import digest
policy, length = runpy.run_path("examples/several_processes.py")["main"](2)
line = f"\\na rank ends with {digest(flat_params(policy))} {length}\\n"
os.write(1, line.encode())  # at once: both ranks write to one pipe
"""


@pytest.mark.slow
def test_the_example_runs_under_torchrun():
    root = DOCS.parent
    if not (root / "examples").exists():
        pytest.skip("the page needs a checkout")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *launcher, sys.executable, "-c", RUN],
        cwd=root,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert done.returncode == 0, done.stderr
    ends = re.findall(r"a rank ends with (\S+ \S+)", done.stdout)
    assert len(ends) == 2 and ends[0] == ends[1]
    assert done.stdout.count("accepted") == 2  # which rank 0 says
