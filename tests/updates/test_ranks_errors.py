"""What goes wrong on one rank is raised on all of them: none waits for ever, none moves alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.cases import Case
from tests.support.rank_cases import part_of, rank_of
from tests.support.rank_pool import Failed
from trpo_fast import (
    Batch,
    FisherOperator,
    MLPPolicy,
    Penalty,
    flat_params,
    kl_penalty_update,
    pg_update,
    rat_update,
    trpo_update,
)

ENDS = (13, 33)
Given = tuple[nn.Module, Any, dict[str, Any]]
Spoil = Callable[[MLPPolicy, Batch], Given]


def with_rows(**values: Any) -> Spoil:
    """Rows with other fields; of a number the field's last element."""

    def spoil(policy: MLPPolicy, batch: Batch) -> Given:
        fields = {}
        for name, value in values.items():
            fields[name] = value
            if isinstance(value, float):
                fields[name] = getattr(batch, name).clone()
                fields[name].view(-1)[-1] = value
        return policy, replace(batch, **fields), {}

    return spoil


def with_options(**options: Any) -> Spoil:
    return lambda policy, batch: (policy, batch, options)


def elsewhere(policy: MLPPolicy, batch: Batch) -> Given:
    with torch.no_grad():
        flat_params(policy)[3] += 1e-9
    return policy, batch, {}


class Counting(nn.Module):
    """A policy that fails at a call of its own choice."""

    left = 0  # of the class, as updates run copies

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, obs: torch.Tensor) -> Any:
        Counting.left -= 1
        if Counting.left == 0:
            raise ArithmeticError("a call too many")
        return self.policy(obs)


def failing(call: int) -> Spoil:
    def spoil(policy: MLPPolicy, batch: Batch) -> Given:
        Counting.left = call
        return Counting(policy), batch, {}

    return spoil


def unhelpful(r: torch.Tensor | None = None) -> torch.Tensor:
    raise ArithmeticError("no inverse")


# What rank 1 is given, what the others are, and what all say.
SPOILS: dict[str, tuple[Spoil, Spoil, str]] = {
    "advantages": (
        with_rows(advantages=float("nan")),
        with_rows(),
        "ValueError: rank 1: advantages: expected finite values, got nan at index [19]",
    ),
    "weights": (
        with_rows(weights=-1.0),
        with_rows(),
        "ValueError: rank 1: weights: expected finite values of at least 0, got -1 at index [19]",
    ),
    "weights of a rank without": (
        with_rows(weights=torch.tensor([0.0] * 19 + [float("nan")], dtype=torch.float64)),
        with_rows(),
        "ValueError: rank 1: weights: expected finite values of at least 0, got nan at index [19]",
    ),
    "no batch": (
        lambda policy, batch: (policy, None, {}),
        with_rows(),
        "ValueError: rank 1: batch: expected a trpo_fast.Batch, got NoneType",
    ),
    "shape": (
        with_rows(advantages=torch.zeros(5, dtype=torch.float64)),
        with_rows(),
        "ValueError: rank 1: advantages: expected",
    ),
    "indices": (
        with_options(fvp_rows=torch.tensor([3, 40])),
        with_options(fvp_rows=torch.tensor([3, 4])),
        "ValueError: rank 1: fvp_rows: expected indices from 0 to 19, got 3 to 40",
    ),
    "too many rows": (
        with_options(fvp_rows=34),
        with_options(fvp_rows=34),
        "ValueError: rank 0: fvp_rows: expected at most the 33 rows of the batch, got 34",
    ),
    "backend": (
        with_options(backend="cpu"),
        with_options(backend="cpu"),
        "BackendUnavailable: rank 0: backend='cpu': expected one that can serve",
    ),
    "damping": (
        with_options(damping=0.2),
        with_rows(),
        "ValueError: options: expected the same options on every rank",
    ),
    "max_kl": (
        with_options(max_kl=0.02),
        with_rows(),
        "ValueError: options: expected the same options on every rank",
    ),
    "parameters": (
        elsewhere,
        with_rows(),
        "ValueError: policy: expected the same parameters on every rank (send rank 0's to the",
    ),
    "preconditioner": (
        with_options(preconditioner=unhelpful),
        with_options(preconditioner=unhelpful),
        "RuntimeError: rank 0: ArithmeticError: no inverse",
    ),
    **{
        f"a module's call {call}": (
            failing(call),
            failing(-1),
            "RuntimeError: rank 1: ArithmeticError: a call too many",
        )
        for call in (1, 2, 3)
    },
}


def spoiled(group: Any, name: str) -> None:
    """An update whose rank 1 has been given something else; nothing may move."""
    spoil, others, _ = SPOILS[name]
    policy = Case().policy()
    batch = part_of(group, Case().batch(policy), ENDS)
    batch = replace(batch, weights=torch.ones(len(batch), dtype=torch.float64))
    given, rows, options = (spoil if rank_of(group) == 1 else others)(policy, batch)
    before = [p.detach().clone() for p in policy.parameters()]
    try:
        trpo_update(given, rows, group=group, **options)
    finally:
        assert all(map(torch.equal, policy.parameters(), before))


@pytest.mark.parametrize("name", SPOILS)
def test_all_ranks_raise_what_one_has_met(ranks, name):
    for found in ranks.everywhere(spoiled, name):
        assert isinstance(found, Failed), found
        assert f"{found.kind}: {found.words}".startswith(SPOILS[name][2]), found


def unsynchronised(group: Any) -> tuple[str, bool]:
    policy = Case().policy()
    batch = part_of(group, Case().batch(policy), ENDS)
    if rank_of(group) == 1:
        batch.advantages[2] = float("inf")
    before = flat_params(policy).clone()
    info = trpo_update(policy, batch, group=group, sync=False)
    return info.reason, torch.equal(flat_params(policy), before)


def test_without_sync_bad_values_are_the_reason_on_all_ranks(ranks):
    assert ranks.run(unsynchronised) == [("bad_values", True)] * 2


def raised(*calls: Callable[[], Any]) -> list[str]:
    said = []
    for call in calls:
        with pytest.raises(ValueError) as caught:
            call()
        said.append(str(caught.value))
    return said


def one_operator(group: Any) -> list[str]:
    """The sentences of an operator that is called with what differs between ranks."""
    policy, rank = Case().policy(), rank_of(group)
    batch = part_of(group, Case().batch(policy), ENDS)
    F = FisherOperator(policy, batch.obs, group=group)
    v = torch.ones_like(flat_params(policy))
    said = raised(
        lambda: F @ (v + rank),
        lambda: F @ (v[:-1] if rank else v),
        lambda: F @ (v * (float("nan") if rank else 1.0)),
        lambda: F.solve(v, iterations=3 + rank),
        lambda: F.solve(v, iterations=rank),
    )
    return [*said, str((F @ v).shape)]


def test_an_operator_wants_the_same_vectors_everywhere(ranks):
    here, there = ranks.run(one_operator)
    assert here == there
    other = "expected the same values on every rank, got others on rank 1 than on rank 0"
    assert here[0] == f"v: {other}"
    assert here[1].startswith("rank 1: v: expected shape [114], got [113]") and "NaN" in here[2]
    assert here[3].startswith("solve: expected the same options on every rank")
    assert here[4].startswith("rank 0: iterations: expected")


def refused(group: Any) -> list[str]:
    """What cannot be shared."""
    policy = Case().policy()
    batch = part_of(group, Case().batch(policy), ENDS)
    return raised(
        lambda: rat_update(policy, batch, group=group),
        lambda: trpo_update(policy, replace(batch, group_size=4), group=group),
        lambda: trpo_update(policy, batch, group="everyone"),
        lambda: trpo_update(policy, batch.rows(slice(0, 0)), group=group),
    )


def test_what_is_not_shared_is_refused(ranks):
    for rat, groups, name, nothing in ranks.run(refused):
        assert rat.startswith("group: expected None (rat_update needs all rows in one process")
        assert groups == "rank 0: group_size: expected a divisor of the 13 rows, got 4"
        assert name.startswith("group: expected a ProcessGroup of torch.distributed that this pro")
        assert nothing == "batch: expected at least one row on one of the ranks, got none"


def with_more_threads(group: Any) -> list[str]:
    """An update where rank 1 has one thread more."""
    policy, threads = Case().policy(), torch.get_num_threads()
    batch = part_of(group, Case().batch(policy), ENDS)
    torch.set_num_threads(threads + rank_of(group))
    try:
        return raised(lambda: trpo_update(policy, batch, group=group))
    finally:
        torch.set_num_threads(threads)


def test_ranks_with_other_numbers_of_threads_are_refused(ranks):
    for (said,) in ranks.run(with_more_threads):
        assert said.startswith("group: expected the same processor or GPU, torch and number of")


def with_optimizers(group: Any) -> list[Any]:
    """Where optimisers whose rates differ between ranks lead, and one that fails."""
    policy, rank = Case().policy(), rank_of(group)
    batch = part_of(group, Case().batch(policy), ENDS)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01 * (1 + rank))
    pg_update(policy, batch, optimizer=optimizer, group=group)
    kl_penalty_update(policy, batch, Penalty(rule="dual"), group=group)
    found = flat_params(policy).clone()
    if rank:
        optimizer.step = unhelpful
    with pytest.raises(RuntimeError, match="rank 1: ArithmeticError: no inverse"):
        pg_update(policy, batch, optimizer=optimizer, group=group)
    return [found, flat_params(policy).clone()]


def test_an_optimisers_step_is_rank_0s(ranks):
    for ours, theirs in zip(*ranks.run(with_optimizers), strict=True):
        assert torch.equal(ours, theirs)
