"""What a run of operators is refused for, and how two runs are told apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trpo_fast.backends.watch import Watch

X, TABLE, CELL = torch.ones(3, 4), torch.zeros(3, 4), nn.GRU(4, 2)


def watched(call: Callable[[], object], *written: torch.Tensor) -> Watch:
    with Watch(torch.device("cpu"), [X], written) as watch:
        call()
    return watch


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: float(X.sum()), "the host waits for _local_scalar_dense"),
        (lambda: X[X > 0], "the host waits for index"),
        (lambda: X.nonzero(), "the host waits for nonzero"),
        (lambda: X.unique(), "the host waits for _unique2"),
        (lambda: torch.linalg.cholesky(X[:, :3] + torch.eye(3)), "waits for _linalg_check_errors"),
        (lambda: torch.linalg.eigh(X[:, :3]), "the host waits for _linalg_eigh"),
        (lambda: X.flatten().repeat_interleave(torch.ones(12).long()), "for repeat_interleave"),
        (lambda: torch.rand(3), "random numbers are drawn by rand"),
        (lambda: F.dropout(X, 0.5), "random numbers are drawn by"),
        (lambda: torch.tensor([1.0]), "a tensor of the host's numbers is made by lift_fresh"),
        (lambda: TABLE.add_(X).sub_(X), "what lies outside of it is written by add_"),
        (lambda: X.mul_(1.0), "what lies outside of it is written by mul_"),
    ],
)
def test_refusals_say_what_and_where(call, reason):
    refusal = watched(call).refusal
    assert reason in refusal and "test_watch.py:" in refusal


@pytest.mark.parametrize(
    "call",
    [
        lambda: X[torch.zeros(2, dtype=torch.long)],
        lambda: torch.linalg.cholesky_ex(X[:, :3] + torch.eye(3)),
        lambda: F.scaled_dot_product_attention(*X.expand(3, 1, 1, 3, 4)),
        lambda: F.dropout(X, 0.5, training=False),
        lambda: CELL(X),
        lambda: torch.func.jvp(lambda x: x * TABLE, (X,), (X,)),
        lambda: torch.zeros(3).add_(X[:, 0]),
    ],
)
def test_what_runs_on_the_device_alone_is_none(call):
    assert not watched(call).refusal


def test_what_is_to_be_written_may_be():
    assert not watched(lambda: TABLE.copy_(X).zero_(), TABLE).refusal


def test_runs_are_told_apart():
    def run(*, operator=torch.add, number=2.0, rows=3, table=TABLE):
        return watched(lambda: operator(X[:rows], number) + table[:rows])

    first = run()
    assert not run().difference(first.calls)
    assert "aten.sub.Tensor in place of aten.add.Tensor" in run(operator=torch.sub).difference(
        first.calls
    )
    for other in ({"number": 2.5}, {"rows": 2}, {"table": torch.zeros(3, 4)}):
        assert "of other numbers or tensors" in run(**other).difference(first.calls)
    longer = watched(lambda: (X[:3] + 2.0 + TABLE[:3]).abs())
    assert f"{len(longer.calls)} of them" in longer.difference(first.calls)
    assert [t is TABLE for t in first.outside.values()] == [True]


@pytest.mark.parametrize("value", [torch.tensor(0.5), torch.tensor([0.5])])
def test_a_number_of_the_hosts_may_be_filled_in_where_a_mask_holds(value):
    """As torch's KL of two Categoricals does; a number of the device's there is waited for."""
    far = torch.ones(3, 4, device="meta")
    for filled, reason in ((value, ""), (far[0, 0], "the host waits for index_put_")):
        with Watch(torch.device("meta"), (), ()) as watch:  # nothing lies there
            made = far + 1.0
            made[made > 1.0] = filled
        assert reason in watch.refusal and bool(reason) == bool(watch.refusal)


def test_nor_where_it_is_added():
    far = torch.ones(3, device="meta")
    with Watch(torch.device("meta"), (), ()) as watch:  # nothing lies there
        (far + 1.0).index_put_((far > 0.0,), torch.tensor(0.5), accumulate=True)
    assert "the host waits for index_put_" in watch.refusal
