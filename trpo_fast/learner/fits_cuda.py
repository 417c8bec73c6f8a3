"""The critic's fits on the device: Adam over a given order of the rows in one launch, Gauss-Newton
by the policy's resident solver between two launches of its own; of wide nets by theirs and plain
PyTorch. Nothing waits for the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._base.choices import PreconditionerKind
from .._base.rows import one_tensor
from ..backends.cuda import connected, current_stream, device_index, explained, place, plan
from ..backends.cuda_machine import machine_support
from ..backends.native import address, native_shape, readable
from ..backends.support import Support
from ..backends.wide import machine as wide
from ..policy.flat import flat_params, mark_written
from ..policy.net import MLPPolicy
from ..updates.operator import FisherOperator
from .actor_cpu import parameter_support
from .fits import BACKTRACKS, AdamState, Targets, curvature_rows

if TYPE_CHECKING:
    from .. import _C

_LOSS, _ACCEPTED, _STATES = 0, 1, 3  # of enum CriticState in csrc/cuda/api.h


def cuda_fit_support(net: MLPPolicy, method: str) -> Support:
    """Whether the kernels fit this net by this method."""
    answer = parameter_support("critic", net, place())
    if answer and solves_as_wide(net, method):
        return wide.net_support(net.spec, "fp32") and wide.machine_support(flat_params(net).device)
    return machine_support() and answer and _shape_support(net, method)


def solves_as_wide(net: MLPPolicy, method: str) -> bool:
    """Whether the solves are those of the kernels for wide nets, and the rest is PyTorch's."""
    return method == "gauss_newton" and wide.is_wide_net(net.spec)


def _shape_support(net: MLPPolicy, method: str) -> Support:
    index = device_index(next(net.parameters()).device)
    with explained():
        native = connected()
        reason = native.cuda_critic_refusal(net=native_shape(net.spec), device=index)
        if not reason and method == "gauss_newton":
            reason = plan(net.spec, 1, native.cuda_limits(index))["refusal"]
    return Support(reason or "")


class CudaFit:
    """The kernels of the CUDA core: float32 on a device. Losses stay there.

    ``grid`` fixes the number of blocks (0: as csrc/cuda/learner/critic.h chooses).
    """

    def __init__(self, net: MLPPolicy, targets: Targets, *, grid: int = 0) -> None:
        self.net = net
        obs, values = readable(one_tensor(targets.obs)), readable(targets.values)
        weights = None if targets.weights is None else readable(targets.weights)
        self.targets = Targets(obs, values, weights)  # the addresses below are theirs
        self._device = obs.device
        self._theta = flat_params(net)
        with explained():
            self._state = torch.zeros(_STATES, dtype=torch.float64, device=obs.device)
            self._native: _C.CudaCritic = connected().CudaCritic(
                net=native_shape(net.spec),
                device=device_index(obs.device),
                theta=self._theta.data_ptr(),
                obs=obs.data_ptr(),
                targets=values.data_ptr(),
                weights=address(weights),
                count=len(obs),
                state=self._state.data_ptr(),
                grid=grid,
            )

    def _launch(self, entry: str, pass_rows: int, **arguments: Any) -> None:
        """One launch on the current stream, scratch from torch's allocator."""
        with explained(self._device):
            size = self._native.scratch_bytes(pass_rows=pass_rows) + 256
            scratch = torch.empty(size, dtype=torch.uint8, device=self._device)
            aligned = (scratch.data_ptr() + 255) // 256 * 256
            stream = current_stream(self._device)
            getattr(self._native, entry)(**arguments, scratch=aligned, stream=stream)

    def _loss(self) -> Tensor:
        return self._state[_LOSS].to(self._theta.dtype)

    def loss(self) -> Tensor:
        return self.gradient()[0]

    def gradient(self) -> tuple[Tensor, Tensor]:
        g = torch.empty_like(self._theta)
        self._launch("gradient", len(self.targets.obs), out=g.data_ptr())
        return self._loss(), g

    def adam(self, state: AdamState, order: Tensor, minibatch: int, learning_rate: float) -> Tensor:
        order = order.contiguous()
        assert state.taken is not None
        self._launch(
            "adam",
            min(minibatch, len(self.targets.obs)),
            order=order.data_ptr(),
            epochs=len(order),
            minibatch=minibatch,
            taken=state.taken.data_ptr(),
            learning_rate=learning_rate,
            beta1=state.beta1,
            beta2=state.beta2,
            eps=state.eps,
            first=state.first.data_ptr(),
            second=state.second.data_ptr(),
        )
        return self._loss()

    def gauss_newton(
        self,
        *,
        steps: int,
        cg_iterations: int,
        damping: float,
        fraction: float,
        preconditioner: PreconditionerKind | None,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """``fits.fit_gauss_newton`` without a question to the device: after a search that
        found nothing the remaining steps still solve, but nothing moves. Returns the loss and the
        steps taken.
        """
        obs, weights = one_tensor(self.targets.obs), self.targets.weights
        for part in curvature_rows(obs, steps, fraction, generator):
            _, g = self.gradient()
            fisher = FisherOperator(
                self.net,
                obs[part],
                damping=damping,
                weights=None if weights is None else weights[part],
                backend="cuda",
                sync=False,
            )
            x = fisher.solve(g, iterations=cg_iterations, preconditioner=preconditioner).x
            self._launch("search", len(obs), direction=x.data_ptr(), backtracks=BACKTRACKS)
            mark_written(self.net)
        return self._loss(), self._state[_ACCEPTED]
