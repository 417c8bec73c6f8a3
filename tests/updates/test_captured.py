"""Updates that are recorded and replayed on fresh rows: as a CUDA graph where there is a GPU, and
by the stand-in of tests/support/host_recorder.py.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from host_recorder import Tape, recording  # noqa: F401
from recorded_cases import MODULES, wide

from trpo_fast import (
    Batch,
    FisherOperator,
    Penalty,
    captured_graphs,
    flat_params,
    kl_penalty_update,
    npg_update,
    pg_update,
    rat_update,
    trpo_update,
)

KINDS = {f"wide {head}": wide(head) for head in ("gaussian", "categorical")} | MODULES
ON_GPU = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
)
DEVICES = ["cpu", ON_GPU]
FEW = {"backend": "reference", "cg_iterations": 3, "backtrack_steps": 3}


@pytest.fixture(autouse=True)
def recorded(recording):  # noqa: F811
    yield recording


def moved(value: Any, device: str) -> Any:
    if isinstance(value, Batch):
        kept = {n: moved(t, device) for n, t in vars(value).items() if isinstance(t, torch.Tensor)}
        return replace(value, **kept)
    return value.to(device)


def run(kind, times: int, update=trpo_update, device="cpu", **options):
    """Whether each of several calls on fresh rows was a replay; each does what the ordinary update
    of a copy of the policy does.
    """
    policy = moved(kind.policy(), device)
    other, seen = copy.deepcopy(policy), []
    for i in range(times):
        batch = moved(kind.batch(kind.policy(), i), device)
        info = update(policy, batch, **options)
        usual = update(other, batch, capture=False, **options)
        assert not usual.captured and info.reason == usual.reason
        assert torch.allclose(info.stats, usual.stats, rtol=1e-7, atol=1e-9)
        assert torch.allclose(flat_params(policy), flat_params(other), rtol=1e-7, atol=1e-9)
        seen.append(info.captured)
    return seen


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "kind", ["wide gaussian", "wide categorical", "pixels", "cell", "squashed"]
)
def test_the_third_update_on_one_shape_and_later_ones_are_replays(kind, device):
    assert run(KINDS[kind], 4, device=device, **FEW) == [False, False, True, True]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("update", "options"),
    [
        (trpo_update, {"preconditioner": "kfac", "cg_iterations": 2, "cg_gain_tol": 0.1}),
        (trpo_update, {"fvp_rows": 9, "chunk_rows": 8, "backend": "autograd"}),
        (npg_update, {"cg_iterations": 2}),
        (pg_update, {"max_grad_norm": 0.1}),
        (rat_update, {"max_rows": 9}),
    ],
)
def test_so_are_those_with_options_and_the_other_updates(update, options, device):
    if options.get("backend") == "autograd":
        options = options | {"chunk_rows": None}
    options = {"backend": "reference"} | options
    assert run(wide("gaussian"), 3, update, device, **options) == [False, False, True]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rule", ["adaptive", "dual"])
@pytest.mark.parametrize(("inner", "old"), [("natural", False), ("natural", True), ("adam", False)])
def test_lambda_may_move_between_replays_of_a_penalty(inner, old, rule, device):
    kind = wide("gaussian")
    policy = moved(kind.policy(), device)
    other, penalties = copy.deepcopy(policy), [Penalty(3.0, rule), Penalty(3.0, rule)]
    options: dict[str, Any] = {"inner": inner, "backend": "reference", "adam_steps": 2}
    options |= {"rounds": 4, "backtrack_steps": 4}
    for i in range(5):
        batch = moved(kind.batch(kind.policy(), i), device)
        if old:
            batch = replace(batch, old_params=policy.distribution_params(batch.obs).detach() + 0.01)
        info = kl_penalty_update(policy, batch, penalties[0], **options)
        usual = kl_penalty_update(other, batch, penalties[1], capture=False, **options)
        assert info.captured == (i > 1) and info.reason == usual.reason
        assert torch.allclose(info.stats, usual.stats, rtol=1e-7, atol=1e-9)
        assert torch.allclose(flat_params(policy), flat_params(other), rtol=1e-7, atol=1e-9)
        assert penalties[0].value == pytest.approx(penalties[1].value, rel=1e-7)
    assert penalties[0].value != 3.0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("columns", [(), (3,)])
def test_solves_are_replayed_on_other_rows_and_at_other_parameters(columns, device):
    kind = wide("gaussian")
    policy = moved(kind.policy(), device)
    for i in range(4):
        batch = moved(kind.batch(kind.policy(), i), device)
        with torch.no_grad():
            flat_params(policy).mul_(1.01)
        torch.manual_seed(i)
        g = torch.randn(flat_params(policy).numel(), *columns, dtype=torch.float64).to(device)
        replayed = captured_graphs().replays
        found = [
            FisherOperator(
                policy, batch.obs, weights=batch.weights, backend="reference", capture=capture
            ).solve(g, 3, preconditioner="kfac")
            for capture in (True, False)
        ]
        assert captured_graphs().replays == replayed + (i > 1)
        for name, value in vars(found[0]).items():
            assert torch.allclose(torch.as_tensor(value), torch.as_tensor(getattr(found[1], name)))


@pytest.mark.parametrize("device", DEVICES)
def test_a_replay_stops_and_refuses_where_the_run_would(device):
    """Recorded on rows that accept a step, replayed on some that accept none, and on bad ones."""
    kind = wide("gaussian")
    policy = moved(kind.policy(), device)
    rows = [moved(kind.batch(kind.policy(), i), device) for i in range(3)]
    for batch in rows:
        info = trpo_update(policy, batch, **FEW)
    assert info.captured and info.accepted
    before = flat_params(policy).clone()
    nothing = replace(rows[0], advantages=torch.zeros_like(rows[0].advantages))
    info = trpo_update(policy, nothing, **FEW)
    assert info.captured and info.reason == "zero_gradient" and info.cg_iterations == 0
    bad = replace(rows[0], obs=torch.full_like(rows[0].obs, float("inf")))
    assert trpo_update(policy, bad, sync=False, **FEW).reason == "bad_values"
    with pytest.raises(ValueError, match="obs: expected finite values"):
        trpo_update(policy, bad, **FEW)
    assert torch.equal(flat_params(policy), before)
    versions = [p._version for p in policy.parameters()]
    assert trpo_update(policy, rows[0], **FEW).captured
    assert all(p._version > v for p, v in zip(policy.parameters(), versions, strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("update", [trpo_update, npg_update, rat_update])
@pytest.mark.parametrize("old", [False, True])
def test_the_limit_may_be_another_at_every_replay(update, old, device):
    kind = wide("gaussian")
    policy = moved(kind.policy(), device)
    other = copy.deepcopy(policy)
    for i in range(5):
        batch = moved(kind.batch(kind.policy(), i), device)
        if old:
            batch = replace(batch, old_params=policy.distribution_params(batch.obs).detach() + 0.01)
        options = {"backend": "reference", "max_kl": 0.01 * 2.0**-i}
        info = update(policy, batch, **options)
        usual = update(other, batch, capture=False, **options)
        assert info.captured == (i > 1) and info.reason == usual.reason
        assert torch.allclose(info.stats, usual.stats, rtol=1e-7, atol=1e-9)
        assert torch.allclose(flat_params(policy), flat_params(other), rtol=1e-7, atol=1e-9)
