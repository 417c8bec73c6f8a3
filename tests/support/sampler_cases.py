"""Batches that another policy sampled than the one which is updated: its distribution parameters in
``old_params``, and its KL by torch's own formulas in float64.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from cases import Case
from cuda_support import DEVICE, EMULATED, to_device, why_not
from torch import Tensor, nn
from torch.distributions import kl_divergence

from trpo_fast import Batch, distribution_params, trpo_update
from trpo_fast.backends.support import family_support

# Name -> backend, dtype.
BACKENDS = {
    "reference": ("reference", torch.float32),
    "reference64": ("reference", torch.float64),
    "autograd": ("autograd", torch.float64),
    "cpu": ("cpu", torch.float32),
    "cuda": ("cuda", torch.float32),
}
MAX_KL = 0.02


def ready(backend: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The backend that a test asks for, in the emulator where there is no device."""
    if backend == "cpu" and (reason := family_support("cpu").why_not):
        pytest.skip(reason)
    if backend == "cuda":
        if reason := why_not():
            pytest.skip(reason)
        if EMULATED:
            monkeypatch.setenv("TRPO_FAST_EMULATE", "1")
    return BACKENDS[backend][0]


@dataclass
class Moved:
    """A policy that has moved since it sampled the batch, and the one it was then in float64."""

    sampler: nn.Module
    policy: nn.Module
    batch: Batch

    def kl(self, *, reverse: bool = False) -> Tensor:
        """KL of the sampler and the policy in every row [N], in float64 by torch."""
        obs, mask = self.batch.obs.cpu().double(), self.batch.action_mask
        inputs = (obs,) if mask is None else (obs, mask.cpu())
        with torch.no_grad():
            old = self.sampler(*inputs)
            new = copy.deepcopy(self.policy).cpu().double()(*inputs)
        found = kl_divergence(*((new, old) if reverse else (old, new)))
        return found if found.ndim == 1 else found.sum(-1)

    def mean(self, kl: Tensor) -> float:
        weights = self.batch.weights
        return float(kl.mean() if weights is None else weights.cpu().double() @ kl / weights.sum())

    def largest(self, kl: Tensor) -> float:
        weights = self.batch.weights
        return float((kl if weights is None else kl[weights.cpu() > 0]).max())


def moved(case: Case, backend: str = "reference64", **options: Any) -> Moved:
    """A case after one update of the reference, within a quarter of MAX_KL."""
    name, dtype = BACKENDS[backend]
    policy = replace(case, dtype=dtype).policy()
    batch = replace(case, dtype=dtype).batch(policy)
    return moved_module(policy, batch, name == "cuda", **options)


def moved_module(policy: nn.Module, batch: Batch, on_device: bool = False, **options: Any) -> Moved:
    """The same of any policy and its batch."""
    batch = replace(batch, old_params=distribution_params(policy, batch.obs, batch.action_mask))
    sampler = copy.deepcopy(policy).double()
    fresh = replace(batch, old_params=None)
    info = trpo_update(policy, fresh, max_kl=MAX_KL / 4, backend="reference", **options)
    assert info.accepted
    if on_device:
        policy, batch = policy.to(DEVICE), to_device(batch)
    return Moved(sampler, policy, batch)
