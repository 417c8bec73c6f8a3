"""A launch that fails: "auto" goes on with the reference, said once; a named backend raises."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from cases import UPDATES, Case
from cuda_graph import no_values_compared
from cuda_support import EMULATED, Emulator, kernels, to_device  # noqa: F401

from trpo_fast import BackendUnavailable, FisherOperator, trpo_update
from trpo_fast.backends.cpu import CpuBackend
from trpo_fast.backends.cuda_launch import DeviceFault
from trpo_fast.backends.cuda_plan import room
from trpo_fast.backends.support import Support
from trpo_fast.learner import advantage, fit_backends
from trpo_fast.learner.critic import Critic
from trpo_fast.policy.flat import flat_params

CASE = Case("gaussian", (64, 64), rows=33, dtype=torch.float32)
OUT_OF_MEMORY, LAUNCH_FAILURE = 2, 719


@pytest.fixture
def emulator(monkeypatch):
    """A machine whose "auto" takes the CUDA kernels for CPU tensors."""
    if not EMULATED:
        pytest.skip("a real runtime fails when it wants to")
    no_values_compared(monkeypatch)
    absent = Support("not on this machine")
    monkeypatch.setattr(CpuBackend, "machine_support", lambda self: absent)
    for supports in (fit_backends.SUPPORTS, advantage.SUPPORTS):
        monkeypatch.setitem(supports, "cpu", lambda *_: absent)
    room.cache_clear()
    yield Emulator()
    Emulator().room()
    room.cache_clear()


@pytest.fixture
def crowded(emulator):
    """Others use the device: what a cooperative launch needs is never free at once."""
    emulator.room(at_once=2)
    return emulator


def setting():
    policy = CASE.policy()
    return policy, to_device(CASE.batch(policy))


def said(record) -> list[str]:
    return [str(w.message) for w in record if "goes on with" in str(w.message)]


@pytest.mark.parametrize("name", UPDATES)
def test_an_update_goes_on_and_says_so_once(crowded, name):
    (policy, batch), (twin, _) = setting(), setting()
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        infos = [UPDATES[name](policy, batch) for _ in range(2)]
    wanted = [UPDATES[name](twin, batch, backend="reference") for _ in range(2)]
    assert [info.backend for info in infos] == ["reference"] * 2
    assert torch.equal(flat_params(policy), flat_params(twin)) and wanted[0].accepted
    (words,) = said(record)
    assert "at most 2 blocks" in words and "'auto' goes on with 'reference'" in words
    assert "/trpo_fast/" not in record[0].filename  # a line of the caller's


@pytest.mark.parametrize("call", ["cudaGetDevice", "cudaDeviceGetAttribute"])
def test_a_device_that_does_not_answer_is_passed_by(emulator, call):
    policy, batch = setting()
    emulator.fail(call, OUT_OF_MEMORY)
    assert trpo_update(policy, batch).backend == "reference"
    emulator.fail(call, OUT_OF_MEMORY)
    with pytest.raises(BackendUnavailable, match="out of memory"):
        trpo_update(policy, batch, backend="cuda")
    assert trpo_update(policy, batch).backend == "cuda"


def test_a_named_backend_raises(crowded):
    policy, batch = setting()
    before = flat_params(policy).clone()
    with pytest.raises(BackendUnavailable, match=r"at most 2 blocks .* got 3"):
        trpo_update(policy, batch, backend="cuda")
    with pytest.raises(BackendUnavailable, match="at most 2 blocks"):  # the reference has no fp16x3
        trpo_update(policy, batch, precision="fp16x3")
    assert torch.equal(flat_params(policy), before)


def test_an_operator_goes_on_where_it_was(emulator):
    policy, batch = setting()
    F = FisherOperator(policy, batch.obs, backend="auto")
    v = torch.randn(F.shape[0])
    first = F @ v
    assert F.backend == "cuda"
    emulator.fail("cudaLaunchKernelEx", OUT_OF_MEMORY)
    with pytest.warns(UserWarning, match="out of memory"):
        again = F @ v
    assert F.backend == "reference"
    torch.testing.assert_close(first, again, rtol=1e-4, atol=1e-5)


def test_nothing_goes_on_after_a_fault_of_the_device(emulator):
    policy, batch = setting()
    emulator.fail("cudaLaunchKernelEx", LAUNCH_FAILURE)
    with pytest.raises(DeviceFault, match=r"leaves unknown what .* unspecified launch failure"):
        trpo_update(policy, batch)
    assert trpo_update(policy, batch).backend == "cuda"


def test_a_plan_that_has_no_room_is_refused_before_a_launch(emulator):
    emulator.room(occupancy=0)
    policy, batch = setting()
    assert trpo_update(policy, batch).backend == "reference"
    with pytest.raises(BackendUnavailable, match="3 blocks wait for each other, and 0 fit at once"):
        trpo_update(policy, batch, backend="cuda")


@pytest.mark.parametrize("method", ["adam", "gauss_newton"])
def test_a_fit_goes_on(crowded, method):
    obs, returns = torch.randn(200, 3), torch.randn(200)
    made = partial(Critic, 3, (64, 64), method=method, epochs=1)
    ours, twin = made(), made(backend="reference")
    twin.load_state_dict(ours.state_dict())
    with pytest.warns(UserWarning, match="at most 2 blocks"):
        info = ours.fit(obs, returns, generator=torch.Generator().manual_seed(1))
    wanted = twin.fit(obs, returns, generator=torch.Generator().manual_seed(1))
    assert info.backend == "reference"
    torch.testing.assert_close(info.loss, wanted.loss, rtol=0.2, atol=0)
    with pytest.raises(BackendUnavailable, match="at most 2 blocks"):
        made(backend="cuda").fit(obs, returns)


def test_advantages_go_on(emulator):
    given = [torch.randn(40, 3) for _ in range(3)]
    done = torch.zeros(40, 3, dtype=torch.bool)
    call = partial(advantage.gae, *given, done, gamma=0.9, lam=0.8)
    emulator.fail("cudaLaunchKernelEx", OUT_OF_MEMORY)
    with pytest.warns(UserWarning, match="out of memory"):
        found = call()
    assert torch.equal(found, call(backend="reference"))
    emulator.fail("cudaLaunchKernelEx", OUT_OF_MEMORY)
    with pytest.raises(BackendUnavailable, match="out of memory"):
        call(backend="cuda")
