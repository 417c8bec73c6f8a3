"""A problem as both native cores take it: sizes, numbers and addresses under the names that
csrc/bindings/problem.cpp reads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.problem import Problem
from ..policy.heads import KINDS
from ..policy.net import ACTIVATIONS, MLPPolicy
from ..policy.spec import NetSpec
from .support import SERVES, Support

MAX_MAPS = 8  # kMaxMaps and kMaxFactors of csrc/shared/params.h
MAX_FACTORS = 64


def net_support(argument: str, net: Any) -> Support:
    """Whether the kernels compute what this net does, wherever its parameters lie."""
    if not isinstance(net, MLPPolicy):
        return Support(f"{argument}: expected an MLPPolicy, got {type(net).__name__}")
    if reason := net.departure():
        return Support(f"{argument}: expected an MLPPolicy as it comes, got one where {reason}")
    spec = net.spec
    if spec.maps > MAX_MAPS:
        limit = f"at most {MAX_MAPS - 1} hidden layers, got {spec.maps - 1}"
        return Support(f"{argument}: expected {limit}")
    if len(spec.nvec) > MAX_FACTORS:
        limit = f"at most {MAX_FACTORS} factors, got a head of {len(spec.nvec)}"
        return Support(f"{argument}: expected {limit}")
    return SERVES


def problem_support(problem: Problem, place: str) -> Support:
    """Whether the cores take a problem; ``place`` is the type of device it has to be on."""
    theta = problem.theta
    answer = net_support("policy", problem.policy)
    if not answer:
        return answer
    if theta.device.type != place:
        return Support(f"the policy is on {theta.device}; move it with policy.to({place!r})")
    if theta.dtype != torch.float32:
        return Support(f"its kernels are float32, the policy is {theta.dtype}")
    if problem.fisher != "analytic":
        return Support(f"fisher={problem.fisher!r} is in the reference backend only")
    return SERVES


def readable(tensor: Tensor) -> Tensor:
    """The tensor with its values in memory as a kernel reads them: in one piece, a negation that
    torch has put off (``is_neg``) done. The same tensor where that is so already.
    """
    tensor = tensor.contiguous()
    return tensor.resolve_neg() if tensor.is_neg() else tensor


def address(tensor: Tensor | None) -> int:
    """Of a tensor that this package made or ``readable`` gave; 0 where there is none."""
    return 0 if tensor is None else tensor.data_ptr()


def net_arguments(spec: NetSpec) -> dict[str, Any]:
    """How the binding wants a net's shape."""
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
