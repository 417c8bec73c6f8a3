"""fvp: vjp(metric(jvp(v))) + damping v against the dense float64 Fisher matrix."""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import replace

import pytest
import torch
from cases import Case, every_shape, few, poison, random_vector, thinned
from exactness import no_worse, relative_error

from trpo_fast import FisherOperator, MLPPolicy
from trpo_fast.core import oracle


def operator(policy, batch, **options):
    options = {"backend": "reference", "damping": 0.1} | options
    rows = {"weights": batch.weights, "action_mask": batch.action_mask}
    return FisherOperator(policy, batch.obs, **rows, **options)


@pytest.mark.parametrize("case", every_shape(), ids=str)
def test_equals_dense_fisher(case):
    policy = case.policy()
    F = operator(policy, case.batch(policy))
    v = random_vector(policy, columns=3)
    assert relative_error(F @ v, F.dense() @ v) < 1e-12


@pytest.mark.parametrize("case", thinned(every_shape(), 2), ids=str)
def test_float32_is_as_good_as_double_backward(case):
    case = replace(case, dtype=torch.float32)
    policy = case.policy()
    batch = case.batch(policy)
    v = random_vector(policy)
    truth = operator(policy, batch).dense() @ v.double()
    theirs = operator(policy, batch, backend="autograd") @ v
    no_worse(operator(policy, batch) @ v, theirs, truth, what="reference against double backward")


@pytest.mark.parametrize("case", few(), ids=str)
def test_autograd_backend_equals_dense_fisher(case):
    policy = case.policy()
    F = operator(policy, case.batch(policy), backend="autograd")
    v = random_vector(policy, columns=2)
    assert relative_error(F @ v, F.dense() @ v) < 1e-11


@pytest.mark.parametrize("case", few(), ids=str)
def test_symmetric_and_positive(case):
    policy = case.policy()
    F = operator(policy, case.batch(policy), damping=0.0)
    identity = torch.eye(F.shape[0], dtype=torch.float64)
    matrix = F @ identity
    assert relative_error(matrix, matrix.T) < 1e-13
    assert torch.linalg.eigvalsh(matrix).min() > -1e-13


@pytest.mark.parametrize("case", few(), ids=str)
def test_zero_weight_rows_may_hold_anything(case):
    policy = case.policy()
    batch = case.batch(policy)
    v = random_vector(policy)
    clean = operator(policy, batch) @ v
    assert relative_error(operator(policy, poison(batch)) @ v, clean) < 1e-14


@pytest.mark.parametrize("case", few(), ids=str)
def test_weights_equal_repeated_rows(case):
    policy = case.policy()
    batch = replace(case.batch(policy), weights=None)
    times = torch.arange(len(batch)) % 3
    repeated = batch.rows(torch.arange(len(batch)).repeat_interleave(times))
    weighted = replace(batch, weights=times.double())
    v = random_vector(policy)
    assert relative_error(operator(policy, weighted) @ v, operator(policy, repeated) @ v) < 1e-13


@pytest.mark.parametrize("rows", [1, 4, 10, 33, 50])
@pytest.mark.parametrize("case", few(), ids=str)
def test_chunks_change_nothing(case, rows):
    policy = case.policy()
    batch = case.batch(policy)
    v = random_vector(policy, columns=2)
    chunked = operator(policy, batch, chunk_rows=rows)
    assert relative_error(chunked @ v, operator(policy, batch) @ v) < 1e-13
    assert chunked.scratch_bytes == 0


@pytest.mark.parametrize("chunk_rows", [None, 4])
def test_fvp_rows(chunk_rows):
    policy = Case(weights=True).policy()
    batch = Case(weights=True).batch(policy)
    v = random_vector(policy)
    index = torch.tensor([0, 3, 4, 17, 30])
    by_index = operator(policy, batch, fvp_rows=index, chunk_rows=chunk_rows)
    assert relative_error(by_index @ v, operator(policy, batch.rows(index)) @ v) < 1e-13
    by_count = operator(policy, batch, fvp_rows=11, chunk_rows=chunk_rows)
    assert relative_error(by_count @ v, operator(policy, batch.rows(slice(0, None, 3))) @ v) < 1e-13


def test_columns_equal_single_products():
    policy = Case().policy()
    F = operator(policy, Case().batch(policy))
    V = random_vector(policy, columns=4)
    singles = torch.stack([F @ column.contiguous() for column in V.T], dim=-1)
    assert relative_error(F @ V, singles) < 1e-14


def test_damping_and_reduction():
    policy = Case().policy()
    batch = Case().batch(policy)
    v = random_vector(policy)
    plain = operator(policy, batch, damping=0.0) @ v
    assert relative_error(operator(policy, batch, damping=0.3) @ v, plain + 0.3 * v) < 1e-14
    mean = operator(policy, batch, damping=0.0, kl_reduction="mean") @ v
    assert relative_error(mean, plain / 3) < 1e-14


@pytest.mark.parametrize("case", few(), ids=str)
def test_empirical_fisher_is_the_covariance_of_scores(case):
    policy = case.policy()
    batch = case.batch(policy)
    F = operator(policy, batch, fisher="empirical", actions=batch.actions)
    v = random_vector(policy)
    assert relative_error(F @ v, F.dense() @ v) < 1e-12


def test_zero_vector_and_equal_bits():
    policy = Case().policy()
    F = operator(policy, Case().batch(policy))
    v = random_vector(policy)
    assert torch.equal(F @ torch.zeros_like(v), torch.zeros_like(v))
    assert torch.equal(F @ v, F @ v)


def test_snapshot_raises_once_parameters_moved():
    policy = Case().policy()
    F = operator(policy, Case().batch(policy))
    v = random_vector(policy)
    F @ v
    with torch.no_grad():
        policy.net[0].bias[0] += 1e-3
    with pytest.raises(RuntimeError, match="parameters have changed"):
        F @ v


WRITES = {
    "obs": lambda batch: batch.obs[:3].mul_(2.0),
    "weights": lambda batch: batch.weights.zero_(),
    "action_mask": lambda batch: batch.action_mask.fill_(True),
}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("backend", ["auto", "reference", "autograd"])
def test_writing_the_rows_raises(backend, name):
    case = Case("categorical", rows=33, weights=True, masks=True, dtype=torch.float32)
    policy, batch = case.policy(), case.batch(case.policy())
    F = operator(policy, batch, backend=backend)
    v = random_vector(policy)
    before = F @ v
    assert torch.equal(F @ v, before)
    WRITES[name](batch)
    for use in (lambda: F @ v, lambda: F.solve(v), F.dense):
        with pytest.raises(RuntimeError, match=f"{name} has been written since"):
            use()


def test_snapshot_sees_writes_past_autograd():
    policy = Case().policy()
    F = operator(policy, Case().batch(policy))
    policy.net[0].weight.data[0, 0] += 1.0
    with pytest.raises(RuntimeError, match="parameters have changed"):
        F.solve(random_vector(policy))


@contextlib.contextmanager
def little_memory(more: int):
    """Allocations fail once the process has so many bytes more than now."""
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="Linux tells the memory in use")
def test_dense_needs_no_memory_for_rows_times_rows():
    """2 000 rows with 3 outputs: their cotangents alone would be 2000 * 3 * 2000 * 3 float64."""
    case = Case("gaussian_one", hidden=(8,), rows=2000)
    policy = case.policy()
    F = operator(policy, case.batch(policy))
    F.dense()  # what torch loads at first use
    with little_memory(100 * 2**20):
        F.dense()


@pytest.mark.parametrize("module", [False, True])
@pytest.mark.parametrize("case", few(), ids=str)
def test_dense_is_the_same_few_rows_at_a_time(case, module, monkeypatch):
    policy = case.policy()
    batch = case.batch(policy)
    F = operator(policy, batch, kl_reduction="mean", fvp_rows=20)
    if module:  # one that is run on every row whatever the Jacobian of
        monkeypatch.setattr(MLPPolicy, "departure", lambda self: "the test says so")
    whole = F.dense()
    monkeypatch.setattr(oracle, "_ROWS", 3)
    assert relative_error(F.dense(), whole) < 1e-14
