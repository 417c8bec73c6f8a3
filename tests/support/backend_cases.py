"""Tests that run every backend of this machine: which there are, and where their tensors lie."""

from __future__ import annotations

import torch
from cases import Case
from cuda_support import to_device

from trpo_fast import Batch, MLPPolicy
from trpo_fast.backends.cuda_launch import place
from trpo_fast.backends.registry import registry

AVAILABLE = [name for name, backend in registry().items() if backend.machine_support()]


def device_of(backend: str) -> torch.device:
    """The CPU, except for CUDA kernels that are not emulated."""
    return torch.device(place() if backend == "cuda" else "cpu")


def setting(case: Case, backend: str) -> tuple[MLPPolicy, Batch]:
    """A case's policy and rows where the backend reads them."""
    policy = case.policy()
    batch = to_device(case.batch(policy), device=device_of(backend))
    return policy.to(device_of(backend)), batch
