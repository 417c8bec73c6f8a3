"""What the CUDA runtime may refuse, at every call of every entry: an exception with its sentence,
nothing moved, nothing left behind; and which device each launch goes to where there are several.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from cases import Case
from cuda_graph import no_values_compared
from cuda_support import DEVICE, EMULATED, Emulator, kernels, to_device  # noqa: F401
from torch import Tensor

from trpo_fast import FisherOperator, trpo_update
from trpo_fast.backends import cuda, cuda_plan
from trpo_fast.backends import cuda as cuda_backend
from trpo_fast.core.problem import BackendUnavailable
from trpo_fast.learner import actor_cuda, advantage, advantage_cuda, fits_cuda
from trpo_fast.learner.actor import ActTensors
from trpo_fast.learner.actor_cuda import CudaActor
from trpo_fast.learner.critic import Critic
from trpo_fast.policy.flat import flat_params

CASE = Case("gaussian", (64, 64), rows=33, obs_dim=11, dtype=torch.float32)  # beyond 48 KB
OUT_OF_MEMORY, OLD_DRIVER, NO_IMAGE, LAUNCH_FAILURE = 2, 35, 209, 719
SENTENCES = {
    OUT_OF_MEMORY: "out of memory",
    OLD_DRIVER: "CUDA driver version is insufficient for CUDA runtime version",
    NO_IMAGE: "no kernel image is available for execution on the device",
    LAUNCH_FAILURE: "unspecified launch failure",
}


class Work:
    """A call of each entry of the table on one policy and critic, and all that they may move."""

    def __init__(self, device: torch.device = DEVICE) -> None:
        self.policy, rows = CASE.policy().to(device), CASE.batch(CASE.policy())
        self.batch = batch = to_device(rows, device=device)
        self.critics = {
            method: Critic(11, (64, 64), backend="cuda", device=device, method=method, epochs=1)
            for method in ("adam", "gauss_newton")
        }
        returns = torch.randn(33, device=device)
        self.g = torch.randn(flat_params(self.policy).numel(), device=device)
        self.F = FisherOperator(self.policy, batch.obs, backend="cuda", sync=False)
        actor = CudaActor(self.policy, self.critics["adam"])
        acted = ActTensors(
            batch.obs,
            None,
            torch.empty_like(batch.actions),
            *[torch.empty(33, device=device) for _ in range(2)],
        )
        done = torch.zeros(4, 5, dtype=torch.bool, device=device)
        options: dict[str, Any] = {"backend": "cuda", "sync": False}
        self.calls: dict[str, Callable[[], Any]] = {
            "fvp": lambda: self.F @ self.g,
            "solve": lambda: self.F.solve(self.g, iterations=2),
            "operator": lambda: FisherOperator(self.policy, batch.obs, backend="cuda"),
            "update": partial(trpo_update, self.policy, batch, **options),
            "act": actor.bind(acted),
            "gae": lambda: advantage.gae(
                *[torch.ones(4, 5, device=device)] * 3, done, gamma=0.9, lam=0.8, backend="cuda"
            ),
            "adam": lambda: self.critics["adam"].fit(batch.obs, returns, sync=False),
            "gauss_newton": lambda: self.critics["gauss_newton"].fit(
                batch.obs, returns, sync=False
            ),
        }

    def kept(self) -> list[Tensor]:
        nets = (self.policy, *self.critics.values())
        return [v.clone() for net in nets for v in net.state_dict().values()]


@pytest.fixture
def emulator(monkeypatch):
    if not EMULATED:
        pytest.skip("a real runtime fails when it wants to")
    no_values_compared(monkeypatch)
    emulator = Emulator()
    emulator.calls()
    yield emulator
    emulator.devices(1)
    for number in (0, 1):
        emulator.device(4, 0, number=number)


NAMES = ("fvp", "solve", "operator", "update", "act", "gae", "adam", "gauss_newton")
# What a user's capture allows; none of them allocates, copies or waits.
HARMLESS = {
    "cudaGetDevice",
    "cudaSetDevice",
    "cudaDeviceGetAttribute",
    "cudaFuncSetAttribute",
    "cudaLaunchKernelEx",
}


@pytest.mark.parametrize("name", NAMES)
def test_every_call_that_fails_is_an_exception_that_moves_nothing(emulator, name):
    work = Work()
    work.calls[name]()  # asks what is asked once for a shape
    emulator.calls()
    work.calls[name]()
    made = [call for call, _ in emulator.calls()]
    assert set(made) <= HARMLESS and "cudaLaunchKernelEx" in made
    before = work.kept()
    for call in sorted(set(made)):
        for skip in range(made.count(call)):
            error = list(SENTENCES)[skip % len(SENTENCES)]
            emulator.fail(call, error, skip)
            with pytest.raises(BackendUnavailable, match=SENTENCES[error]):
                work.calls[name]()
            after = work.kept()
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), call
            assert emulator.current_device() == emulator.last_error() == 0
    work.calls[name]()


@pytest.mark.parametrize("name", NAMES)
def test_launches_go_to_the_device_of_the_tensors(emulator, monkeypatch, name):
    """CPU tensors pretend to lie on device 1, with more multiprocessors and less shared memory:
    its blocks ask for less of it. Device 0 is current.
    """
    emulator.devices(2)
    emulator.device(2, 0, number=0)
    emulator.device(4, 100 * 1024, number=1)
    first = Work()
    first.calls[name]()  # what was said to device 0 is of no use to device 1
    for module in (cuda_plan, cuda, actor_cuda, advantage_cuda, fits_cuda):
        monkeypatch.setattr(module, "device_index", lambda device: 1)
    work = Work()
    emulator.calls()
    work.calls[name]()
    launched = [device for call, device in emulator.calls() if call == "cudaLaunchKernelEx"]
    assert launched and set(launched) == {1} and emulator.current_device() == 0
    if name == "update":
        plan = cuda_backend.CudaOperator(work.F._operator.problem).plan()
        before = first.F._operator.plan()
        assert (before["grid"], plan["grid"]) == (2, 3)
        assert 48 * 1024 < plan["shared_bytes"] < before["shared_bytes"]


def test_a_device_of_another_architecture_is_refused_by_name(monkeypatch):
    """Where one device is served, it serves; the other has its own sentence."""
    device = torch.device("cuda", 1)

    class Native:
        cuda_limits = staticmethod(lambda index: {"arch": 75 if index else 90})
        build_info = staticmethod(lambda: {"cuda_archs": "80;90;100+PTX"})

    monkeypatch.setattr(cuda_backend, "connected", lambda: Native)
    support = cuda_backend.device_support.__wrapped__
    assert "does not serve cuda:1 (sm_75)" in support(device).why_not
    assert support(torch.device("cuda", 0))


@pytest.mark.parametrize("name", NAMES)
def test_torch_makes_the_device_current(emulator, monkeypatch, name):
    """Which goes back to the caller's without a context there; then the core has nothing to do."""
    entered = []

    class Current:
        def __init__(self, device):
            entered.append(device)

        __enter__ = __exit__ = lambda self, *_: None

    work, far = Work(), torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", Current)
    for module in (cuda, actor_cuda, advantage_cuda, fits_cuda):
        explained = module.explained
        monkeypatch.setattr(
            module, "explained", lambda on=None, explained=explained: explained(on and far)
        )
    emulator.calls()
    work.calls[name]()
    launched = [call for call, _ in emulator.calls() if call == "cudaLaunchKernelEx"]
    assert entered == [far] * len(launched) != []


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
@pytest.mark.parametrize("name", NAMES)
def test_a_second_device_while_the_first_is_current(name):
    work = Work(torch.device("cuda", 1))
    with torch.cuda.device(0):
        work.calls[name]()
        torch.cuda.synchronize(1)
        assert torch.cuda.current_device() == 0
    assert all(value.device.index in (1, None) for value in work.kept())
