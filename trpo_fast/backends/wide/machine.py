"""Whether the kernels for wide nets take a problem, and run here."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

import torch

from ..._base import extension
from ...core.problem import Problem
from ...policy.net import MLPPolicy
from ...policy.spec import NetSpec
from ..native import MAX_FACTORS, MAX_MAPS
from ..support import SERVES, Support

PRECISIONS = ("fp32", "fp16x3", "bf16x3", "tf32")
RESIDENT_WIDTH = 128  # kMaxKernelWidth of csrc/cuda/resident/layout.h
MAX_WIDTH = 4096


def is_wide(problem: Problem) -> bool:
    """Whether a net is wider, deeper or of more choices than the resident kernels could take."""
    return isinstance(problem.policy, MLPPolicy) and is_wide_net(problem.policy.spec)


def is_wide_net(spec: NetSpec) -> bool:
    """Whether they could not take any problem of such a net."""
    many = len(spec.nvec) > MAX_FACTORS
    return many or spec.maps > MAX_MAPS or max(spec.widths[1:]) > RESIDENT_WIDTH


def support(problem: Problem) -> Support:
    """Whether they compute it here."""
    theta, policy = problem.theta, problem.policy
    assert isinstance(policy, MLPPolicy)
    answer = net_support(policy.spec, problem.precision)
    if not answer:
        return answer
    if reason := policy.departure():
        return Support(f"policy: expected an MLPPolicy as it comes, got one where {reason}")
    if theta.dtype != torch.float32:
        return Support(f"its kernels are float32, the policy is {theta.dtype}")
    if problem.fisher != "analytic":
        return Support(f"fisher={problem.fisher!r} is in the reference backend only")
    return machine_support(theta.device)


def net_support(spec: NetSpec, precision: str) -> Support:
    """Whether they compute products of such a net, on some machine."""
    if precision not in PRECISIONS:
        return Support(f"precision={precision!r} is not among its {PRECISIONS}")
    if max(spec.widths[1:]) > MAX_WIDTH:
        return Support(f"its kernels serve layers up to {MAX_WIDTH} wide")
    return SERVES


def machine_support(device: torch.device) -> Support:
    """Whether Triton's kernels run for tensors on a device. Interpreted ones are for tests: they
    run where the others are emulated.
    """
    if device.type == "cuda":
        return _triton_support() and _device_support(device)
    if extension.emulating() and os.environ.get("TRITON_INTERPRET") == "1":
        return _installed()
    return Support(f"the policy is on {device}; move it with policy.to('cuda')")


def _installed() -> Support:
    if importlib.util.find_spec("triton") is None:
        return Support("kernels for layers wider than 128 need triton: pip install triton")
    return SERVES


@functools.cache
def _triton_support() -> Support:
    """Triton compiles a launcher in C when a kernel is first used."""
    answer = _installed()
    if not answer:
        return answer
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return Support("kernels for layers wider than 128 need a C compiler, which CC may name")
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        return Support("kernels for layers wider than 128 need Python's headers (python3-dev)")
    return SERVES


@functools.cache
def _device_support(device: torch.device) -> Support:
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return Support(
            f"kernels for layers wider than 128 need sm_80, {device} is sm_{major}{minor}"
        )
    return SERVES
