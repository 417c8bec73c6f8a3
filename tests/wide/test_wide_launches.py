"""How many kernels an iteration of CG takes, and how many different ones Triton has to compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from wide_support import needs_triton

from trpo_fast.bench.cases import CASES, make_workload
from trpo_fast.core.problem import CgConfig, Problem, UpdateConfig
from trpo_fast.policy.flat import flat_params

pytestmark = needs_triton
DIFFERENT = 11  # of a solve: jvp's first map, and back from outputs, have forms of their own


@pytest.fixture
def launched(monkeypatch):
    """The launches of a solve, or a ``whole`` update, on some rows of a case: names, and what
    Triton compiles for. Nothing is computed.
    """
    from check_triton import described

    from trpo_fast.backends.wide import product, solve, split_product
    from trpo_fast.backends.wide.operator import WideOperator
    from trpo_fast.backends.wide.tiles import TILES

    seen: list[tuple[str, str]] = []

    def record(kernel: Any, _grid: Any, _at: Any, _tiles: Any, *given: Any, **named: Any) -> None:
        made = described(kernel, given, named)
        what = (made.signature, sorted(made.constants.items()), sorted(made.aligned))
        seen.append((kernel.__name__, repr(what)))

    for module in (product, split_product, solve):
        monkeypatch.setattr(module, "launch", record)

    def solved(
        case: str, precision: str, rows: int, iterations: int = 2, *, whole: bool = False
    ) -> list[tuple[str, str]]:
        seen.clear()
        work = make_workload(CASES[case], cap=rows)
        theta = flat_params(work.policy)
        problem = Problem(work.policy, theta, work.batch, 0.1, precision=precision)
        operator, config = WideOperator(problem, tiles=TILES["sm_90"]), CgConfig(iterations)
        if whole:
            operator.update(UpdateConfig(cg=config))
        else:
            operator.solve(torch.zeros_like(theta), config)
        return list(seen)

    return solved


@pytest.mark.parametrize("case", ["C3", "C4", "C5"])
def test_launches_of_an_iteration(case, launched):
    maps = len(CASES[case].hidden) + 1
    one, two = (launched(case, "fp16x3", 300, k) for k in (1, 2))
    assert len(two) - len(one) == 2 * maps + 3
    one, two = (launched(case, "fp32", 300, k) for k in (1, 2))
    assert len(two) - len(one) == 4  # beside those of cuBLAS


@pytest.mark.parametrize("case", ["C3", "C4", "C5"])
def test_launches_of_an_update(case, launched):
    maps = len(CASES[case].hidden) + 1
    start = maps + 2  # rows of every map, theta, the first direction
    assert len(launched(case, "fp16x3", 300, 10, whole=True)) == start + 10 * (2 * maps + 3)


@pytest.mark.parametrize("case", ["C3", "C4", "C5"])
def test_few_kernels_are_compiled_and_none_anew_for_other_rows(case, launched):
    found = set(launched(case, "fp16x3", 1000))
    assert len(found) == DIFFERENT
    for rows in (300, 1023, 1024, 2500):
        assert set(launched(case, "fp16x3", rows)) == found
