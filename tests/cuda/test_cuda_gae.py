"""Advantages by the scan kernel against brute force in float64 and the torch twin."""

from __future__ import annotations

import pytest
import torch
from advantage_cases import brute_gae, following_values, rollout
from cuda_support import DEVICE, EMULATED, kernels, schedule  # noqa: F401
from exactness import no_worse
from torch import Tensor

from trpo_fast.core.problem import BackendUnavailable
from trpo_fast.learner import advantage

SHAPES = [(1, 1), (1, 40), (2, 3), (33, 5), (129, 2), (1030, 1), (300, 9), (7, 200), (64, 133)]


def arguments(steps: int, envs: int) -> tuple[dict[str, Tensor], list[Tensor]]:
    """A rollout in float64, and what gae wants of it."""
    r = rollout(steps, envs, seed=steps)
    following = following_values(r)
    return r, [r["rewards"], r["values"], following, r["terminated"] | r["truncated"]]


def single(tensors: list[Tensor]) -> list[Tensor]:
    return [t.to(DEVICE, torch.float32 if t.is_floating_point() else None) for t in tensors]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (0.9, 0.0), (1.0, 1.0)])
def test_equals_brute_force(shape: tuple[int, int], gamma: float, lam: float) -> None:
    """Error against float64 at most twice that of the float32 twin, plus epsilon."""
    r, given = arguments(*shape)
    options = {"gamma": gamma, "lam": lam}
    wanted = brute_gae(r, gamma, lam)
    ours = advantage.gae(*single(given), **options, backend="cuda").cpu()
    twin = advantage.gae(*single(given), **options, backend="reference").cpu()
    no_worse(ours, twin, wanted)


@pytest.mark.parametrize("order", [(0, 0, 0.0), (2, 3, 0.0), (2, 4, 0.3)])
def test_schedules_change_no_bit(order: tuple[int, int, float]) -> None:
    given = single(arguments(300, 9)[1])
    first = advantage.gae(*given, gamma=0.99, lam=0.95, backend="cuda")
    schedule(*order)
    assert torch.equal(first, advantage.gae(*given, gamma=0.99, lam=0.95, backend="cuda"))


def test_what_is_left_out_of_the_batch_leaks_nowhere() -> None:
    """A reset step follows the end of an episode: whatever it holds, the rows before do not see
    it.
    """
    given = single(arguments(40, 3)[1])
    given[3][10] = True
    changed = [t.clone() for t in given]
    for tensor in changed[:3]:
        tensor[11] = 1e6
    first, second = (
        advantage.gae(*rows, gamma=0.99, lam=0.95, backend="cuda") for rows in (given, changed)
    )
    assert torch.equal(first[:11], second[:11]) and torch.equal(first[12:], second[12:])


def test_advantages_have_the_dtype_of_the_rewards() -> None:
    given = single(arguments(5, 2)[1])
    wanted = advantage.gae(*given, gamma=0.9, lam=0.5, backend="cuda")
    torch.set_default_dtype(torch.float64)
    try:
        ours = advantage.gae(*given, gamma=0.9, lam=0.5, backend="cuda")
    finally:
        torch.set_default_dtype(torch.float32)
    assert ours.dtype == torch.float32 and torch.equal(ours, wanted)


def test_auto_takes_what_serves_and_cuda_insists() -> None:
    r, given = arguments(5, 2)
    ours = advantage.gae(*(t.to(DEVICE) for t in given), gamma=0.9, lam=0.5)  # float64: torch
    torch.testing.assert_close(ours.cpu(), brute_gae(r, 0.9, 0.5), rtol=1e-12, atol=1e-12)
    with pytest.raises(BackendUnavailable, match="rewards: expected"):
        advantage.gae(*(t.to(DEVICE) for t in given), gamma=0.9, lam=0.5, backend="cuda")


@pytest.mark.skipif(not EMULATED, reason="there is a device")
def test_without_kernels_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRPO_FAST_EMULATE")
    given = single(arguments(5, 2)[1])
    with pytest.raises(BackendUnavailable, match="can estimate advantages, got: "):
        advantage.gae(*given, gamma=0.9, lam=0.5, backend="cuda")
