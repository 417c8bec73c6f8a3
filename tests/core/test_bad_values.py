"""Every value no update can use, on every backend and head: a ``ValueError`` that names the
argument, or without ``sync`` the reason ``bad_values``; the policy keeps every bit. In a row of
weight zero the same value changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from cases import ON_CUDA, Case
from cuda_support import DEVICE, EMULATED, to_device, why_not
from torch import Tensor

from trpo_fast import (
    Batch,
    FisherOperator,
    MLPPolicy,
    distribution_params,
    flat_params,
    trpo_update,
)
from trpo_fast._base import extension
from trpo_fast.backends.support import family_support

NAN, INF = float("nan"), float("inf")
LIVE, DEAD = 2, 6  # rows: with a weight, and with weight zero (Case._weights)
# Name -> backend, dtype.
BACKENDS = {
    "reference": ("reference", torch.float32),
    "reference64": ("reference", torch.float64),
    "autograd": ("autograd", torch.float64),
    "cpu": ("cpu", torch.float32),
    "cuda": ("cuda", torch.float32),
}


@dataclass(frozen=True)
class Fault:
    """``spoil(tensor, row)`` writes a bad value into an argument's row."""

    argument: str
    spoil: Callable[[Tensor, int], None]


def value(x: float, place: int | None = None) -> Callable[[Tensor, int], None]:
    def spoil(tensor: Tensor, row: int) -> None:
        tensor[row if place is None else (row, place)] = x

    return spoil


def everything_zero(tensor: Tensor, row: int) -> None:
    tensor.zero_()


def second_factor_zero(tensor: Tensor, row: int) -> None:
    tensor[row, 2:5] = 0


ANY_HEAD = {
    **{f"obs {x}": Fault("obs", value(x, 4)) for x in (NAN, INF)},
    **{f"advantages {x}": Fault("advantages", value(x)) for x in (NAN, -INF)},
    **{f"log_probs {x}": Fault("log_probs", value(x)) for x in (NAN, -INF)},
    **{f"old_params {x}": Fault("old_params", value(x)) for x in (NAN, INF)},
    **{f"weights {x}": Fault("weights", value(x)) for x in (NAN, INF, -1.0)},
    "weights all zero": Fault("weights", everything_zero),
}
GAUSSIAN = {f"actions {x}": Fault("actions", value(x, 0)) for x in (NAN, INF)}
BERNOULLI = {f"actions {x}": Fault("actions", value(x, 2)) for x in (NAN, 0.5, -1.0)}
BETA = {f"actions {x}": Fault("actions", value(x, 1)) for x in (NAN, 0.0, 1.0, -0.5, INF)}
CATEGORICAL = {
    **{f"actions {x}": Fault("actions", value(x)) for x in (-1, 4, 2**40)},
    "mask empty": Fault("action_mask", value(False)),
}
MULTI = {
    **{f"actions {x}": Fault("actions", value(x, 1)) for x in (-1, 3, 2**40)},
    "mask empty": Fault("action_mask", value(False)),
    "one factor without choices": Fault("action_mask", second_factor_zero),
}
OWN: dict[str, dict[str, Fault]] = {
    "categorical": CATEGORICAL,
    "multicategorical": MULTI,
    "bernoulli": BERNOULLI,
    "beta": BETA,
}
FORBIDDEN = "actions that the mask forbids"


def faults(head: str) -> list[str]:
    own = list(OWN.get(head, GAUSSIAN))
    return [*ANY_HEAD, *own, *([FORBIDDEN] if "categorical" in head else [])]


HEADS = ("gaussian", "gaussian_state", "categorical", "multicategorical", "bernoulli", "beta")
CASES = [(head, fault) for head in HEADS for fault in faults(head)]
SERVED = [
    (backend, head, name)
    for backend in BACKENDS
    for head, name in CASES
    if backend != "cuda" or head in ON_CUDA
]
IN_PADDING = [case for case in SERVED if "weights" not in case[2]]


def case_of(head: str, backend: str) -> Case:
    choices = "categorical" in head
    return Case(head, (8, 5), weights=True, masks=choices, dtype=BACKENDS[backend][1])


def spoiled(batch: Batch, head: str, name: str, row: int) -> tuple[str, Batch]:
    """The argument at fault, and the batch with the fault in a row."""
    if name == FORBIDDEN:
        assert batch.action_mask is not None and batch.actions is not None
        mask, actions = batch.action_mask.clone(), batch.actions.clone()
        mask[row] = True
        mask[row, -2 if head == "multicategorical" else -1] = False
        actions[row] = torch.tensor([0, 2, 0]) if actions.ndim == 2 else 3
        mask[row, 4 if head == "multicategorical" else 3] = False
        return "actions", replace(batch, action_mask=mask, actions=actions)
    fault = (ANY_HEAD | OWN.get(head, GAUSSIAN))[name]
    tensor = getattr(batch, fault.argument).clone()
    fault.spoil(tensor, row)
    return fault.argument, replace(batch, **{fault.argument: tensor})


@pytest.fixture
def emulated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CUDA kernels, on the host where there is no device; only where a test asks for them."""
    backend = request.getfixturevalue("backend")
    if backend == "cpu" and (reason := family_support("cpu").why_not):
        pytest.skip(reason)
    if backend != "cuda":
        return
    if reason := why_not():
        pytest.skip(reason)
    if EMULATED:
        monkeypatch.setenv("TRPO_FAST_EMULATE", "1")


def made(head: str, backend: str) -> tuple[MLPPolicy, Batch, dict[str, Any]]:
    case = case_of(head, backend)
    policy = case.policy()
    batch = case.batch(policy)
    old = distribution_params(policy, batch.obs, batch.action_mask)
    batch = replace(batch, old_params=old)
    if backend == "cuda":
        policy, batch = policy.to(DEVICE), to_device(batch)
    return policy, batch, {"backend": BACKENDS[backend][0]}


@pytest.mark.parametrize(("backend", "head", "name"), SERVED)
def test_a_value_no_update_can_use(head: str, name: str, backend: str, emulated: None) -> None:
    policy, batch, options = made(head, backend)
    before = flat_params(policy).clone()
    argument, bad = spoiled(batch, head, name, LIVE)
    info = trpo_update(policy, bad, sync=False, **options)
    assert info.reason == "bad_values"
    assert torch.equal(flat_params(policy), before)
    with pytest.raises(ValueError, match=f"^{argument}: expected .+, got .+"):
        trpo_update(policy, bad, **options)
    assert torch.equal(flat_params(policy), before)


@pytest.mark.parametrize(("backend", "head", "name"), IN_PADDING)
def test_a_row_without_weight_may_hold_it(
    head: str, name: str, backend: str, emulated: None
) -> None:
    policy, batch, options = made(head, backend)
    good = trpo_update(policy, batch, **options)
    again, _, _ = made(head, backend)
    info = trpo_update(again, spoiled(batch, head, name, DEAD)[1], **options)
    assert info.accepted and torch.equal(info.stats, good.stats)
    assert torch.equal(flat_params(again), flat_params(policy))


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
@pytest.mark.parametrize("index", [-1, 33, 2**40, -(2**62)])
@pytest.mark.parametrize("weighted", [False, True])
def test_kernels_do_not_follow_indices_of_no_row(
    weighted: bool, index: int, backend: str, emulated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing may wait for a device, the kernels are the first to see the indices."""
    monkeypatch.setattr(extension, "asynchronous", lambda device: True)
    policy, batch, options = made("gaussian", backend)
    batch = batch if weighted else replace(batch, weights=None)
    before = flat_params(policy).clone()
    rows = torch.tensor([0, index], device=before.device)
    info = trpo_update(policy, batch, sync=False, fvp_rows=rows, **options)
    assert info.reason == "bad_values" and torch.equal(flat_params(policy), before)
    F = FisherOperator(policy, batch.obs, sync=False, fvp_rows=rows, **options)
    assert (F @ before).isnan().all()


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_kernels_read_nothing_else_for_repeated_indices(
    backend: str, emulated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not for the public functions. The CPU core flags them, CUDA counts rows twice."""
    monkeypatch.setattr(extension, "asynchronous", lambda device: True)
    policy, batch, options = made("gaussian", backend)
    v = flat_params(policy).clone()
    rows = torch.arange(33, device=v.device).repeat_interleave(40)
    twice = FisherOperator(policy, batch.obs, sync=False, fvp_rows=rows, **options) @ v
    if backend == "cpu":
        assert twice.isnan().all()
        return
    once = FisherOperator(policy, batch.obs, **options) @ v
    assert torch.allclose(twice, once, rtol=1e-4, atol=1e-5)
