"""The CPU core stage by stage, on every instruction set, against the reference in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import few, poison, random_vector, weighted
from cpu_cases import (
    activations,
    all_shapes,
    every_isa,
    in_double,
    native,
    needs_native,
    operator_of,
    single,
)
from exactness import no_worse

from trpo_fast import FisherOperator, flat_params
from trpo_fast.core import reference

pytestmark = needs_native
BOTH = (torch.float64, torch.float32)


@pytest.fixture(params=all_shapes(), ids=str)
def problem(request):
    """Policy and rows without weights or masks: the stages look at every row."""
    policy, batch = single(request.param)
    return policy, replace(batch, weights=None, action_mask=None)


@every_isa
def test_forward(problem, isa, monkeypatch):
    monkeypatch.setenv("TRPO_FAST_ISA", isa)
    policy, batch = problem
    truth, theirs = (activations(policy, batch, dtype).params for dtype in BOTH)
    no_worse(native(policy, batch).forward(), theirs, truth)


@every_isa
def test_jvp(problem, isa, monkeypatch):
    monkeypatch.setenv("TRPO_FAST_ISA", isa)
    policy, batch = problem
    v = random_vector(policy)

    def expected(dtype):
        acts = activations(policy, batch, dtype)
        return reference.jvp(flat_params(policy).to(dtype), policy.spec, acts, v.to(dtype))

    no_worse(native(policy, batch).jvp(v), expected(BOTH[1]), expected(BOTH[0]))


@every_isa
def test_metric(problem, isa, monkeypatch):
    monkeypatch.setenv("TRPO_FAST_ISA", isa)
    policy, batch = problem
    operator = native(policy, batch)
    params = operator.forward()
    tangent = torch.randn(params.shape)

    def expected(dtype):  # from the core's own logits: large ones lose digits in any forward
        acts = activations(policy, batch, dtype)._replace(params=params.to(dtype))
        return reference.metric(policy.head, acts, tangent.to(dtype))

    no_worse(operator.metric(tangent), expected(BOTH[1]), expected(BOTH[0]))


@every_isa
def test_vjp(problem, isa, monkeypatch):
    monkeypatch.setenv("TRPO_FAST_ISA", isa)
    policy, batch = problem
    delta = torch.randn(activations(policy, batch, BOTH[1]).params.shape)

    def expected(dtype):
        acts = activations(policy, batch, dtype)
        return reference.vjp(flat_params(policy).to(dtype), policy.spec, acts, delta.to(dtype))

    no_worse(native(policy, batch).vjp(delta), expected(BOTH[1]), expected(BOTH[0]))


@every_isa
@pytest.mark.parametrize("case", all_shapes(), ids=str)
def test_fvp_with_weights_and_masks(case, isa, monkeypatch):
    monkeypatch.setenv("TRPO_FAST_ISA", isa)
    policy, batch = single(case)
    v = random_vector(policy, columns=3).T.contiguous()
    theirs = operator_of("reference", policy, batch).fvp(v)
    truth = operator_of("reference", *in_double(policy, batch)).fvp(v.double())
    no_worse(native(policy, batch).fvp(v), theirs, truth)


@pytest.mark.parametrize("case", few(), ids=str)
def test_zero_weight_rows_may_hold_anything(case):
    policy, batch = single(case)
    v = random_vector(policy)
    clean, poisoned = native(policy, batch), native(policy, poison(batch))
    assert torch.equal(clean.fvp(v), poisoned.fvp(v))
    assert torch.equal(clean.gradient()[0], poisoned.gradient()[0])
    assert not poisoned.bad_values()


@pytest.mark.parametrize("case", few(), ids=str)
def test_chunks_and_rows_and_columns_change_nothing(case):
    policy, batch = single(case)
    V = random_vector(policy, columns=11)
    rows = {"weights": batch.weights, "action_mask": batch.action_mask, "backend": "cpu"}
    F = FisherOperator(policy, batch.obs, **rows)
    assert torch.equal(FisherOperator(policy, batch.obs, chunk_rows=10, **rows) @ V, F @ V)
    singles = [F @ column.contiguous() for column in V.T]
    assert torch.equal(F @ V, torch.stack(singles, dim=-1))
    index = torch.tensor([0, 3, 4, 17, 30])
    some = FisherOperator(policy, batch.obs, fvp_rows=index, **rows) @ V
    part = batch.rows(index)
    alone = native(policy, part, damping=F.damping).fvp(V.T.contiguous()).T
    assert torch.equal(some, alone)


def test_reduction_and_damping():
    policy, batch = single(weighted("gaussian"))
    v = random_vector(policy)
    plain = native(policy, batch, damping=0.0).fvp(v)
    assert torch.allclose(native(policy, batch, damping=0.3).fvp(v), plain + 0.3 * v, rtol=1e-6)
    mean = native(policy, batch, damping=0.0, kl_reduction="mean").fvp(v)
    assert torch.allclose(mean, plain / 3, rtol=1e-6)


def test_scratch_does_not_grow_with_the_rows():
    policy, batch = single(weighted("gaussian"))
    many = batch.rows(torch.arange(5000) % len(batch))
    v = random_vector(policy)
    sizes = []
    for rows in (batch, many):
        operator = native(policy, replace(rows, weights=None), chunk_rows=100)
        operator.fvp(v)
        sizes.append(operator.scratch_bytes)
    assert sizes[1] < 64 * sizes[0] and sizes[1] < 4 << 20
