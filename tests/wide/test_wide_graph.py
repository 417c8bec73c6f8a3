"""Updates of wide nets that are recorded and replayed: as a CUDA graph where there is a GPU, and by
the stand-in of tests/support/host_recorder.py, which is told of every launch.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import Case
from cuda_support import DEVICE, EMULATED, to_device
from host_recorder import Tape, recording  # noqa: F401
from torch.utils._python_dispatch import (
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
)
from wide_support import needs_triton

from trpo_fast import FisherOperator, captured_graphs, trpo_update
from trpo_fast.policy.flat import flat_params

pytestmark = needs_triton
FEW = {"cg_iterations": 1, "backtrack_steps": 1, "backend": "cuda"}


@pytest.fixture
def launches(monkeypatch, request):
    """Launches are on the tape, and what the interpreter does meanwhile is not."""
    if not EMULATED:
        return
    request.getfixturevalue("recording")
    from trpo_fast.backends.wide import product, solve, split_product

    plain = product.launch

    def launch(*arguments: Any, **constants: Any) -> None:
        for mode in _get_current_dispatch_mode_stack():
            if isinstance(mode, Tape):
                mode._tape.append((plain, arguments, constants, None))
        with _disable_current_modes():
            plain(*arguments, **constants)

    monkeypatch.setenv("TRPO_FAST_EMULATE", "1")
    for module in (product, split_product, solve):
        monkeypatch.setattr(module, "launch", launch)


def batch(case: Case, seed: int) -> Any:
    made = replace(case, seed=seed, dtype=torch.float32)
    return to_device(made.batch(made.policy()))


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("gaussian", {"precision": "fp16x3"}),
        ("categorical", {"precision": "fp32", "preconditioner": "kfac"}),
    ],
)
def test_the_third_update_and_later_ones_are_replays(head, options, launches):
    case = Case(head, (129,), rows=20, weights=True, dtype=torch.float32)
    policy = case.policy().to(DEVICE)
    other, seen = copy.deepcopy(policy), []
    for seed in range(4):
        rows = batch(case, seed)
        info = trpo_update(policy, rows, **FEW, **options)
        usual = trpo_update(other, rows, capture=False, **FEW, **options)
        assert info.backend == "cuda" and info.reason == usual.reason
        assert torch.allclose(info.stats, usual.stats, rtol=1e-5, atol=1e-7)
        assert torch.allclose(flat_params(policy), flat_params(other), rtol=1e-5, atol=1e-7)
        seen.append(info.captured)
    assert seen == [False, False, True, True]


def test_solves_are_replays(launches):
    case = Case("gaussian", (129,), rows=20, dtype=torch.float32)
    policy = case.policy().to(DEVICE)
    before = captured_graphs().replays
    g = torch.randn(policy.spec.size, device=DEVICE)
    for seed in range(4):
        obs = batch(case, seed).obs
        f, usual = (
            FisherOperator(policy, obs, backend="cuda", precision="fp16x3", capture=capture)
            for capture in (True, False)
        )
        found, expected = (one.solve(g, iterations=2) for one in (f, usual))
        torch.testing.assert_close(found.x, expected.x, rtol=1e-4, atol=1e-6)
    assert captured_graphs().replays == before + 2
