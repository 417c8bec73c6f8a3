"""A problem as both native cores take it: sizes, numbers and addresses under the names that
csrc/bindings/problem.cpp reads.
"""

from __future__ import annotations

from typing import Any, TypedDict

import torch
from torch import Tensor

from ..core.problem import Problem
from ..policy.heads import KINDS
from ..policy.net import ACTIVATIONS, MLPPolicy
from ..policy.spec import NetSpec

MAX_MAPS = 8  # kMaxMaps and kMaxFactors of csrc/shared/params.h
MAX_FACTORS = 64


def too_large(spec: NetSpec) -> str:
    """What of a net exceeds the kernels' fixed sizes; empty if nothing does."""
    if spec.maps > MAX_MAPS:
        return f"at most {MAX_MAPS - 1} hidden layers, it has {spec.maps - 1}"
    if len(spec.nvec) > MAX_FACTORS:
        return f"at most {MAX_FACTORS} factors, its head has {len(spec.nvec)}"
    return ""


def refusal(problem: Problem, place: str) -> str | None:
    """What of a problem neither core takes, as a sentence; ``place`` is the device it has to be
    on.
    """
    policy, theta = problem.policy, problem.theta
    if not isinstance(policy, MLPPolicy):
        return f"its kernels are for MLPPolicy, not {type(policy).__name__}"
    if reason := policy.departure():
        return f"its kernels are for an MLPPolicy as it comes, and {reason}"
    if theta.device.type != place:
        return f"the policy is on {theta.device}; move it with policy.to({place!r})"
    if theta.dtype != torch.float32:
        return f"its kernels are float32, the policy is {theta.dtype}"
    if problem.fisher != "analytic":
        return f"fisher={problem.fisher!r} is in the reference backend only"
    if limit := too_large(policy.spec):
        return f"policy: expected {limit}"
    return None


def readable(tensor: Tensor) -> Tensor:
    """The tensor with its values in memory as a kernel reads them: in one piece, a negation that
    torch has put off (``is_neg``) done. The same tensor where that is so already.
    """
    tensor = tensor.contiguous()
    return tensor.resolve_neg() if tensor.is_neg() else tensor


def address(tensor: Tensor | None) -> int:
    """Of a tensor that this package made or ``readable`` gave; 0 where there is none."""
    return 0 if tensor is None else tensor.data_ptr()


class NetArguments(TypedDict):
    """A net's shape as the binding takes it."""

    widths: list[int]
    activation: int
    head: int
    nvec: list[int]


def net_arguments(spec: NetSpec) -> NetArguments:
    """The arguments of ``NetShape`` and ``cuda_plan`` for a net."""
    return {
        "widths": list(spec.widths),
        "activation": ACTIVATIONS.index(spec.activation),
        "head": KINDS.index(spec.head),
        "nvec": list(spec.nvec),
    }


class NativeProblem:
    """The description of a problem at ``theta``; owns the tensors whose addresses it holds."""

    def __init__(self, problem: Problem, theta: Tensor) -> None:
        policy, batch = problem.policy, problem.batch
        assert isinstance(policy, MLPPolicy)
        choices = bool(policy.head.nvec)
        rows = {
            "obs": batch.obs,
            "weights": batch.weights,
            "mask": batch.action_mask,
            "actions": None if choices else batch.actions,
            "choices": batch.actions if choices else None,
            "advantages": batch.advantages,
            "log_probs": batch.log_probs,
            "fvp_rows": problem.fvp_rows,
        }
        self.tensors = {n: None if t is None else readable(t) for n, t in rows.items()}
        self.tensors["theta"] = theta
        self.fields: dict[str, Any] = {
            **net_arguments(policy.spec),
            **{name: address(tensor) for name, tensor in self.tensors.items()},
            "parameters": theta.numel(),
            "count": len(batch),
            "group_size": batch.group_size or 0,
            "fvp_count": 0 if problem.fvp_rows is None else problem.fvp_rows.numel(),
            "chunk_rows": problem.chunk_rows or 0,
            "damping": problem.damping,
            "kl_scale": problem.kl_scale,
        }
