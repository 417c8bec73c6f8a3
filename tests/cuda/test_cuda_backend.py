"""backend="cuda" beside the kernels: who may use it, what it says otherwise, what it leaves."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from cases import Case
from cuda_support import DEVICE, EMULATED, Trio, kernels, small_device, to_device  # noqa: F401

from trpo_fast import Batch, Beta, FisherOperator, Gaussian, MLPPolicy, trpo_update
from trpo_fast.backends.support import Support
from trpo_fast.backends.wide import machine
from trpo_fast.core.problem import BackendUnavailable, UpdateConfig
from trpo_fast.policy.flat import flat_params

WIDE = MLPPolicy(obs_dim=3, head=Gaussian(2), hidden=(129,)).to(DEVICE)
BETA = MLPPolicy(obs_dim=3, head=Beta(2), hidden=(8,)).to(DEVICE)
DOUBLE = MLPPolicy(obs_dim=3, head=Gaussian(2), hidden=(8,)).to(DEVICE).double()
NARROW = MLPPolicy(obs_dim=3, head=Gaussian(2), hidden=(8,)).to(DEVICE)


@pytest.mark.parametrize(
    ("policy", "options", "words"),
    [
        (NARROW, {"precision": "tf32"}, "'tf32' is for layers wider than 128"),
        (DOUBLE, {}, "are float32, the policy is torch.float64; use backend=.reference"),
        (BETA, {}, "no formulas for the head Beta; use backend=.reference"),
        (torch.nn.Linear(3, 2).to(DEVICE), {}, "an MLPPolicy, got Linear; use backend=.reference"),
    ],
    ids=["precision", "double", "beta", "module"],
)
def test_refusals(policy, options, words):
    obs = torch.zeros(4, 3, device=DEVICE, dtype=next(policy.parameters()).dtype)
    with pytest.raises(BackendUnavailable, match=words):
        FisherOperator(policy, obs, backend="cuda", sync=False, **options)


def test_wide_nets_without_triton(monkeypatch):
    monkeypatch.setattr(machine, "_installed", lambda: Support("no triton is here"))
    machine._triton_support.cache_clear()
    obs = torch.zeros(4, 3, device=DEVICE)
    assert FisherOperator(WIDE, obs, backend="auto").backend in ("cpu", "reference")
    with pytest.raises(BackendUnavailable, match="no triton is here; use backend='reference'"):
        FisherOperator(WIDE, obs, backend="cuda")
    monkeypatch.undo()
    machine._triton_support.cache_clear()


def test_without_a_device_the_reason_is_a_sentence():
    if not EMULATED:
        pytest.skip("there is a device")
    code = (
        "import torch, trpo_fast as t\n"
        "policy = t.MLPPolicy(obs_dim=3, head=t.Gaussian(2), hidden=(8,))\n"
        "print(t.backends()['cuda'])\n"
        "try: t.FisherOperator(policy, torch.zeros(4, 3), backend='cuda')\n"
        "except t.BackendUnavailable as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={})
    status, error = done.stdout.strip().split("\n")
    assert status != "ok" and error == f"backend='cuda': expected one that can serve, got: {status}"


def test_a_failed_launch_raises_and_changes_nothing():
    t = Trio(Case("gaussian", (64, 64), rows=33))
    before = t.kernels.problem.theta.clone()
    with (
        small_device(multiprocessors=1),
        pytest.raises(BackendUnavailable, match="nothing was changed") as raised,
    ):
        t.kernels.update(UpdateConfig())  # planned for three blocks at once
    print(raised.value)
    assert torch.equal(before, t.kernels.problem.theta)
    assert t.kernels.update(UpdateConfig())[0] == 0


def test_out_of_memory_is_the_reason(monkeypatch):
    t = Trio(Case("gaussian", (8,), rows=7))

    def no_memory(*_args, **_options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")

    monkeypatch.setattr(torch, "empty", no_memory)
    with pytest.raises(BackendUnavailable, match="CUDA out of memory"):
        t.kernels.update(UpdateConfig())


def test_strided_inputs_and_inputs_stay_as_they_were():
    case = Case("gaussian", (8, 5), rows=33, weights=True, dtype=torch.float32)
    policy = case.policy().to(DEVICE)
    batch = to_device(case.batch(policy.cpu() if EMULATED else case.policy()))
    strided = Batch(
        batch.obs.T.contiguous().T,
        batch.actions.T.contiguous().T,
        torch.stack([batch.advantages] * 2, -1)[:, 0],
        batch.log_probs,
        batch.weights,
    )
    theta = flat_params(policy).clone()
    results = []
    for given in (batch, strided):
        flat_params(policy).copy_(theta)
        info = trpo_update(policy, given, backend="cuda")
        results.append((info.stats, flat_params(policy).clone()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert not torch.equal(results[0][1], theta)


@pytest.mark.parametrize("head", ["gaussian", "categorical"])
def test_values_of_observations_are_looked_at_without_a_batch(head):
    case = Case(head, (8,), rows=33, dtype=torch.float32)
    policy, obs = case.policy().to(DEVICE), torch.randn(33, case.obs_dim, device=DEVICE)
    FisherOperator(policy, obs, backend="cuda")
    obs[2, 1] = float("nan")
    with pytest.raises(ValueError, match="obs: expected finite"):
        FisherOperator(policy, obs, backend="cuda")


def test_scratch_is_what_the_plan_says():
    t = Trio(Case("gaussian", (8, 5), rows=33))
    assert t.kernels.scratch_bytes == t.kernels.plan()["scratch_bytes"] > 0
