"""What max_kl limits: the mean KL of the states, or the largest; and how the two compare."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import HEADS, ON_CUDA, Case
from cuda_support import to_device
from sampler_cases import BACKENDS, ready

from trpo_fast import UpdateInfo, flat_params, npg_update, trpo_update

MAX_KL = 0.02
SERVED = [
    (backend, head)
    for backend in BACKENDS
    for head in (ON_CUDA if backend == "cuda" else HEADS)
    if head != "beta" or backend != "autograd"
]


def step(case: Case, backend: str, name: str, **options: Any) -> tuple[UpdateInfo, torch.Tensor]:
    """What an update reports, and how it moved the parameters."""
    case = replace(case, dtype=BACKENDS[backend][1])
    policy = case.policy()
    batch = case.batch(policy)
    if backend == "cuda":
        batch = to_device(batch)
        policy = policy.to(batch.obs.device)
    before = flat_params(policy).clone()
    info = trpo_update(policy, batch, max_kl=MAX_KL, backend=name, backtrack_steps=30, **options)
    return info, flat_params(policy) - before


@pytest.mark.parametrize(("backend", "head"), SERVED)
def test_the_largest_kl_allows_the_shorter_step(
    backend: str, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both try theta + c^j beta x with one x and one beta: the mean is at most the largest, so the
    first j that keeps the largest within the limit is at or behind the mean's.
    """
    name = ready(backend, monkeypatch)
    for seed in range(3):
        case = Case(head, rows=60, seed=seed, weights=True)
        (mean, far), (largest, near) = (
            step(case, backend, name, constraint=c, damping=1e-3) for c in ("mean", "max")
        )
        assert mean.accepted and largest.accepted
        assert mean.kl <= MAX_KL < mean.max_state_kl
        assert largest.kl < largest.max_state_kl <= MAX_KL
        assert largest.backtracks > mean.backtracks and largest.step_size < mean.step_size
        ratio = 0.8 ** (largest.backtracks - mean.backtracks)
        assert largest.step_size == pytest.approx(ratio * mean.step_size)
        assert near.norm() < far.norm()


def test_of_one_state_both_are_the_same() -> None:
    found = [step(Case(rows=1), "reference64", "reference", constraint=c) for c in ("mean", "max")]
    assert torch.equal(found[0][0].stats, found[1][0].stats)
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_it_is_the_kl_of_the_direction_asked_for(direction: str) -> None:
    case = Case("gaussian_state", rows=60)
    policy = case.policy()
    batch = case.batch(policy)
    old = policy.distribution_params(batch.obs).detach()
    info = trpo_update(
        policy, batch, max_kl=MAX_KL, constraint="max", kl_direction=direction, backtrack_steps=30
    )
    new = policy.distribution_params(batch.obs).detach()
    pair = (old, new) if direction == "forward" else (new, old)
    assert info.accepted and info.max_state_kl <= MAX_KL
    assert info.max_state_kl == pytest.approx(float(policy.head.kl(*pair).max()))


def test_a_step_without_search_does_not_know_it() -> None:
    flats = []
    for constraint in ("mean", "max"):
        policy = Case(rows=60).policy()
        assert npg_update(policy, Case(rows=60).batch(policy), constraint=constraint).accepted
        flats.append(flat_params(policy).clone())
    assert torch.equal(*flats)
