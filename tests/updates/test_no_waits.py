"""Plain PyTorch runs ahead of a device: nothing between the rows of an update and its statistics
waits for one or copies from the host, and the results are those of the ordinary run.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from cases import HEADS
from no_waits import no_waits, without_waits
from recorded_cases import MODULES, wide

from trpo_fast import (
    FisherOperator,
    Penalty,
    flat_params,
    kl_penalty_update,
    npg_update,
    pg_update,
    rat_update,
    trpo_update,
)
from trpo_fast._base import arguments
from trpo_fast.core import checks

KINDS = {f"wide {head}": wide(head) for head in HEADS} | MODULES
OPTIONS = {
    "plain": {},
    "kfac": {"preconditioner": "kfac"},
    "gain": {"cg_gain_tol": 0.2, "cg_tol": 0.3},
    "parts": {"fvp_rows": 9, "chunk_rows": 8, "kl_direction": "reverse"},
}


def same(kind, update, **options) -> None:
    """An update of a policy without a wait, and the ordinary one of its copy."""
    policy = kind.policy()
    other, batch = copy.deepcopy(policy), kind.batch(policy, 1)
    options = {"backend": "reference", "sync": False} | options
    flat_params(policy)  # laid out before, as a first call does
    info = without_waits(lambda: update(policy, batch, **options))
    usual = update(other, batch, **options)
    assert info.reason == usual.reason == "accepted"
    assert torch.allclose(info.stats, usual.stats, rtol=1e-9, atol=1e-12)
    assert torch.allclose(flat_params(policy), flat_params(other), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_waits_for_nothing(kind):
    same(KINDS[kind], trpo_update, cg_iterations=3, backtrack_steps=3)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["wide categorical", "cell"])
def test_nor_with_options(kind, options):
    same(KINDS[kind], trpo_update, **OPTIONS[options])


def penalised(policy, batch, *, rule="adaptive", **options):
    """Lambda moves where the KL is; nobody reads it here."""
    options |= {"adam_steps": 2, "rounds": 3, "backtrack_steps": 4}
    return kl_penalty_update(policy, batch, Penalty(rule=rule), **options)


@pytest.mark.parametrize(
    ("update", "options"),
    [
        (npg_update, {}),
        (pg_update, {"max_grad_norm": 0.1}),
        (rat_update, {"max_rows": 9}),
        (penalised, {"rule": "fixed"}),
        (penalised, {"rule": "adaptive"}),
        (penalised, {"rule": "dual"}),
        (penalised, {"rule": "dual", "inner": "adam"}),
    ],
)
def test_nor_do_the_other_updates(update, options):
    same(wide("gaussian"), update, **options)


def test_nor_where_the_sampler_is_another_policy_or_groups_share_a_denominator():
    kind = wide("gaussian")
    policy = kind.policy()
    batch = kind.batch(policy, 1)
    with torch.no_grad():
        old = policy.distribution_params(batch.obs)
    for rows in (replace(batch, old_params=old + 0.01), replace(batch, group_size=3)):
        kind.batch = lambda *_, rows=rows: rows
        same(kind, trpo_update)


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_what_moves_nothing_waits_for_nothing(value):
    """Rows that no update can use, and a gradient of zero."""
    policy = wide("gaussian").policy()
    batch = wide("gaussian").batch(policy, 1)
    batch = replace(batch, advantages=torch.full_like(batch.advantages, value))
    before = flat_params(policy).clone()
    options = {"backend": "reference", "sync": False}
    info = without_waits(lambda: trpo_update(policy, batch, **options))
    assert info.reason == ("zero_gradient" if value == 0.0 else "bad_values")
    assert torch.equal(flat_params(policy), before)


def test_solves_of_several_columns_wait_for_nothing():
    policy = wide("gaussian").policy()
    obs = torch.randn(9, 5, dtype=torch.float64)
    g = torch.randn(policy.spec.size, 3, dtype=torch.float64)
    g[:, 1] = 0.0  # has converged before it begins

    def solve():
        fisher = FisherOperator(policy, obs, backend="reference", sync=False)
        return fisher.solve(g, 4, preconditioner="kfac"), fisher.solve(g, 4)

    for a, b in zip(without_waits(solve), solve(), strict=True):
        assert torch.allclose(a.x, b.x, rtol=1e-9, atol=1e-12)


def test_the_refusals_refuse():
    x = torch.ones(3)
    waiting = [
        lambda: x.sum().item(),
        lambda: bool(x.sum() > 0),
        lambda: x[x > 0],
        lambda: x.nonzero(),
        lambda: x.unique(),
        lambda: torch.equal(x, x),
        lambda: torch.tensor([1.0]),
        lambda: x.tolist(),
        lambda: x.repeat_interleave(torch.ones(3, dtype=torch.long)),
        lambda: torch.rand(3, generator=torch.Generator()),
        lambda: torch.ones(3, device="meta").add(1.0).copy_(x),
    ]
    for call in waiting:
        with pytest.raises((AssertionError, RuntimeError)), no_waits(on_meta=True):
            call()


def on_meta(monkeypatch, kind):
    """A policy and rows that have no values: whoever asks for one is refused by torch."""
    for module in (arguments, checks):
        monkeypatch.setattr(module, "check_memory", lambda *_: None)
    policy = kind.policy()
    rows = kind.batch(policy, 0)
    shapes = {n: t.to("meta") for n, t in vars(rows).items() if isinstance(t, torch.Tensor)}
    policy = policy.to("meta")
    flat_params(policy)
    return policy, replace(rows, **shapes)


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_of_an_update_lies_on_the_device(monkeypatch, kind):
    """A device that is not the CPU, the checks of arguments included: none comes from there."""
    policy, rows = on_meta(monkeypatch, KINDS[kind])
    few = {"cg_iterations": 2, "backtrack_steps": 2, "backend": "reference", "sync": False}
    with no_waits(on_meta=True):
        assert trpo_update(policy, rows, **few).stats.is_meta
        assert trpo_update(policy, rows, preconditioner="kfac", **few).stats.is_meta


@pytest.mark.parametrize("update", [npg_update, pg_update, rat_update, penalised])
def test_nor_has_another_update_any_elsewhere(monkeypatch, update):
    policy, rows = on_meta(monkeypatch, wide("categorical"))
    with no_waits(on_meta=True):
        assert update(policy, rows, backend="reference", sync=False).stats.is_meta
    policy, rows = on_meta(monkeypatch, MODULES["cell"])
    if update is not rat_update:
        with no_waits(on_meta=True):
            assert update(policy, rows, backend="autograd", sync=False).stats.is_meta
