"""A problem as both native cores take it: ``FvpParams`` of csrc/shared/params.h, filled in from
sizes, numbers and addresses.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._base import extension
from .._base.rows import one_tensor
from ..core.cg import CgResult
from ..core.problem import Problem
from ..policy.heads import KINDS
from ..policy.net import ACTIVATIONS, MLPPolicy
from ..policy.spec import NetSpec
from .support import SERVES, Support

if TYPE_CHECKING:
    from .. import _C

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


@functools.lru_cache(maxsize=256)
def native_shape(spec: NetSpec) -> _C.NetShape:
    """The cores' description of a net."""
    return extension.native.NetShape(
        widths=list(spec.widths),
        activation=ACTIVATIONS.index(spec.activation),
        head=KINDS.index(spec.head),
        nvec=list(spec.nvec),
    )


# Numbers that a kernel reports of one right-hand side: enum SolveStat in csrc/shared/params.h.
SOLVED = 6


def solved_by_kernels(x: Tensor, table: Tensor, factor_rows: int) -> CgResult:
    """The result of a solve, from x and what the kernels report of it [..., SOLVED]."""
    quad, residual, used, curvature, linear_gain, restarts = table.unbind(-1)
    return CgResult(
        x, quad, residual, used.long(), curvature, linear_gain, restarts.long(), factor_rows
    )


class NativeProblem:
    """``params``, which the cores read, of a problem at ``theta``; owns the tensors whose addresses
    they are.
    """

    def __init__(self, problem: Problem, theta: Tensor) -> None:
        policy, batch = problem.policy, problem.batch
        native = extension.module()
        assert native is not None and isinstance(policy, MLPPolicy)
        self._tensors: list[Tensor] = []
        choices = bool(policy.head.nvec)
        fvp_rows = problem.fvp_rows
        self.params = native.FvpParams(
            net=native_shape(policy.spec),
            theta=self._address(theta),
            parameters=theta.numel(),
            count=len(batch),
            obs=self._address(one_tensor(batch.obs)),
            weights=self._address(batch.weights),
            mask=self._address(batch.action_mask),
            actions=0 if choices else self._address(batch.actions),
            choices=self._address(batch.actions) if choices else 0,
            advantages=self._address(batch.advantages),
            log_probs=self._address(batch.log_probs),
            group_size=batch.group_size or 0,
            old_params=self._address(batch.old_params),
            fvp_rows=self._address(fvp_rows),
            fvp_count=0 if fvp_rows is None else fvp_rows.numel(),
            chunk_rows=problem.chunk_rows or 0,
            damping=problem.damping,
            kl_scale=problem.kl_scale,
        )

    def _address(self, tensor: Tensor | None) -> int:
        """Of the values as kernels read them, kept alive from now on; 0 where there are none."""
        if tensor is None:
            return 0
        kept = readable(tensor)
        self._tensors.append(kept)
        return kept.data_ptr()
