"""What ``make check-cuda`` says of compiled Triton kernels that have become worse."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
from wide_support import needs_triton

pytestmark = needs_triton


@pytest.fixture
def budget():
    import check_triton

    return json.loads(check_triton.BUDGET.read_text())


def test_the_budget_itself_is_within_the_budget(budget):
    import check_triton

    assert check_triton.compare(budget, budget) == []


@pytest.mark.parametrize(
    ("arch", "change", "words"),
    [
        ("sm_90", {"hgmma": 0, "hmma": 192}, "no hgmma"),
        ("sm_80", {"hot_local": 1}, "spills in a loop of tensor-core instructions"),
        ("sm_100", {"shared": 240_000}, "240000 bytes of shared memory"),
        ("sm_90", {"registers": 255}, "registers 255, budget"),
    ],
)
def test_what_is_worse_is_said(budget, arch, change, words):
    import check_triton

    worse = deepcopy(budget)
    worse["jvp_map fp16x3"][arch] |= change
    assert any(words in line for line in check_triton.compare(worse, budget))


def test_a_kernel_without_a_budget_is_said(budget):
    import check_triton

    less = {name: archs for name, archs in budget.items() if name != "finish fp16x3"}
    assert any("finish fp16x3: only" in line for line in check_triton.compare(budget, less))
