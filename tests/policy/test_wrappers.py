"""Policies inside of torch.compile, DataParallel and DistributedDataParallel: the same kernels and
bits as without, or a sentence.
"""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from limits import HANGS
from module_cases import Custom
from torch import nn
from torch.distributions import Categorical
from torch.nn.parallel import DataParallel, DistributedDataParallel

from trpo_fast import (
    Batch,
    FisherOperator,
    Gaussian,
    MLPPolicy,
    Penalty,
    flat_params,
    kl_penalty_update,
    pg_update,
    trpo_update,
)

pytestmark = pytest.mark.attack

gloo = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this torch has no gloo",
)


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "compile": lambda p: torch.compile(p, backend="eager"),
    "DataParallel": DataParallel,
    "DistributedDataParallel": DistributedDataParallel,
    "compiled DistributedDataParallel": lambda p: torch.compile(
        DistributedDataParallel(p), backend="eager"
    ),
}
UPDATES: dict[str, Callable[..., Any]] = {
    "trpo": trpo_update,
    "penalty": lambda p, b: kl_penalty_update(p, b, Penalty(), inner="adam"),
    "optimizer": lambda p, b: pg_update(p, b, optimizer=torch.optim.SGD(p.parameters(), lr=0.01)),
}


def plain() -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    policy = MLPPolicy(4, Gaussian(2), (8,))
    return policy, Batch(torch.randn(33, 4), torch.randn(33, 2), torch.randn(33))


@gloo
@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_policy_is_updated_as_the_one_inside(wrapper: str, update: str) -> None:
    (policy, batch), (other, _) = plain(), plain()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrapped = WRAPPERS[wrapper](other)
        info, same = UPDATES[update](policy, batch), UPDATES[update](wrapped, batch)
        F = FisherOperator(wrapped, batch.obs)
    assert info.accepted and same.backend == F.backend == "cpu"
    assert torch.equal(info.stats, same.stats)
    assert torch.equal(flat_params(policy), flat_params(other))


def test_a_compiled_module_of_ones_own_says_that_it_runs_as_it_was() -> None:
    torch.manual_seed(0)
    policy = Custom(lambda z: Categorical(logits=z))
    batch = Batch(torch.randn(9, 4), torch.zeros(9).long(), torch.randn(9))
    compiled: Any = torch.compile(policy, backend="eager")
    with pytest.warns(UserWarning, match=r"policy: the compiled module runs as it was before"):
        assert trpo_update(compiled, batch).accepted
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trpo_update(compiled, batch).accepted


def test_hooks_on_a_wrapper_are_refused() -> None:
    policy, batch = plain()
    wrapped = DataParallel(policy)
    wrapped.register_forward_hook(lambda module, given, result: None)
    with pytest.raises(ValueError, match="policy: expected hooks on the module inside of DataPar"):
        trpo_update(wrapped, batch)


def on_a_rank(rank: int, store: str, said: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    policy, _ = plain()
    wrapped = DistributedDataParallel(policy)
    before = flat_params(policy).clone()
    torch.manual_seed(rank)
    obs = torch.randn(33, 4)
    batch = Batch(obs, torch.randn(33, 2), torch.randn(33))
    words = []
    for call in (lambda: trpo_update(wrapped, batch), lambda: FisherOperator(wrapped, obs)):
        try:
            words.append(str(call()))
        except ValueError as error:
            words.append(str(error))
    said.put([*words, torch.equal(flat_params(policy), before)])
    torch.distributed.destroy_process_group()


@gloo
@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts its ranks by fork")
def test_two_ranks_with_data_of_their_own_do_not_part_silently(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    said = context.SimpleQueue()
    ranks = [
        context.Process(target=on_a_rank, args=(rank, str(tmp_path / "store"), said), daemon=True)
        for rank in range(2)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(HANGS)
        assert rank.exitcode == 0
    wanted = "policy: expected the module inside of DistributedDataParallel, policy.module, and an"
    for _ in ranks:
        *words, stayed = said.get()
        assert len(words) == 2 and all(word.startswith(wanted) for word in words), words
        assert all(word.endswith("got DistributedDataParallel over 2 ranks") for word in words)
        assert stayed
