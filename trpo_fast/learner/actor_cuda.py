"""Acting on the device in one launch: what ``actor_cpu.NativeActor`` does on the CPU, with noise
from the device's generator and nothing that waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..backends.cuda_launch import connected, current_stream, device_index, explained, place
from ..backends.cuda_machine import machine_support
from ..backends.native import native_shape, readable
from ..backends.support import SERVES, Support
from ..core.checks import check_tensor
from ..core.problem import BackendUnavailable
from ..policy.net import MLPPolicy
from .actor import ActTensors
from .actor_cpu import ACT, KernelActor, act_rows, parameter_support
from .input_checks import check_acting
from .normalise import ObservationNormaliser

if TYPE_CHECKING:
    from .. import _C


def cuda_act_support(policy: Any, critic: Any) -> Support:
    """Whether the kernels act for this policy and critic."""
    return (
        machine_support()
        and parameter_support("policy", policy, place())
        and parameter_support("critic", critic.net, place())
        and _shape_support(policy, critic)
    )


def _shape_support(policy: MLPPolicy, critic: Any) -> Support:
    try:
        _native_act(policy, critic)
    except BackendUnavailable as error:
        return Support(str(error))
    return SERVES


def _native_act(policy: MLPPolicy, critic: Any) -> _C.CudaAct:
    index = device_index(next(policy.parameters()).device)
    with explained():
        made: _C.CudaAct = connected().CudaAct(
            policy=native_shape(policy.spec), critic=native_shape(critic.net.spec), device=index
        )
    return made


class CudaActor(KernelActor):
    """Acts through the CUDA kernels for float32 MLPs on a device, on contiguous tensors; those of
    another device are copied there, and the answers back.

    A CUDA graph can capture a bound call. It must know the generator, if there is one:
    ``graph.register_generator_state(generator)`` before the capture.
    """

    def __init__(
        self,
        policy: MLPPolicy,
        critic: Any,
        generator: torch.Generator | None = None,
        *,
        normaliser: ObservationNormaliser | None = None,
    ) -> None:
        cuda_act_support(policy, critic).insist("cuda", ACT)
        native = _native_act(policy, critic)
        super().__init__(native, policy, critic, generator, normaliser)
        self._act = native.act
        self.device = next(policy.parameters()).device

    def bind(self, tensors: ActTensors) -> Callable[[], None]:
        given = [None if tensor is None else tensor.detach() for tensor in tensors]
        here = [None if tensor is None else self._beside(tensor) for tensor in given]
        self.recheck_nets()
        check_acting(self.policy, self._policy.first, *here)  # type: ignore[arg-type]
        return _BoundLaunch(self, given, here)

    def values(self, obs: Tensor) -> Tensor:
        self._critic.locate()
        rows = obs.to(self.device)
        rows = readable(check_tensor("obs", rows, self._policy.first, (None, self._inputs)))
        out = rows.new_empty(len(rows))
        self.launch(0, act_rows({"obs": rows, "values": out}))
        return out.to(obs.device)

    def _beside(self, tensor: Tensor) -> Tensor:
        """The tensor itself, or room for it on the nets' device."""
        if tensor.device == self.device:
            return tensor
        return torch.empty_like(tensor, device=self.device)

    def launch(self, theta: int, rows: _C.ActRows) -> None:
        """On what ``act_rows`` made; theta 0: values alone."""
        if self.normaliser is not None:
            self._follow_normaliser()
        with explained(self.device):
            self._act(
                theta=theta,
                critic_theta=self._critic.pointer(),
                value_shift=self.critic.mean.data_ptr(),
                value_scale=self.critic.std.data_ptr(),
                rows=rows,
                stream=current_stream(self.device),
            )

    def launch_policy(self, rows: _C.ActRows) -> None:
        self.launch(self._policy.pointer(), rows)

    def _follow_normaliser(self) -> None:
        assert self.normaliser is not None
        if self.normaliser.shift is not self._shift:
            self._shift = self.normaliser.shift
            # Kept alive, and on the nets' device: the native half has addresses.
            given = (self._shift, self.normaliser.scale)
            self._moved = [readable(tensor.to(self.device)) for tensor in given]
            shift, scale = (t.data_ptr() for t in self._moved)
            self._native.normalise(shift=shift, scale=scale, clip=self.normaliser.clip)


class _BoundLaunch:
    """One launch on tensors that are known to fit. Those of another device (``given`` is not
    ``here``) are copied before and after.
    """

    def __init__(
        self, actor: CudaActor, given: list[Tensor | None], here: list[Tensor | None]
    ) -> None:
        self._actor = actor
        self._tensors = here  # own views of the memory whose addresses the native half gets
        obs, mask, *_ = here
        assert obs is not None
        self._noise = actor.room_for_noise(len(obs))
        self._rows = act_rows(ActTensors(*here)._asdict() | {"noise": self._noise})  # type: ignore[arg-type]
        moved = [(g, h) for g, h in zip(given, here, strict=True) if g is not None and g is not h]
        self._inputs = [(g, h) for g, h in moved if h is obs or h is mask]
        self._outputs = [(g, h) for g, h in moved if h is not obs and h is not mask]

    def __call__(self) -> None:
        for given, here in self._inputs:
            assert here is not None
            here.copy_(given)
        draw = self._noise.normal_ if self._actor.normal else self._noise.uniform_
        draw(generator=self._actor.generator)
        self._actor.launch_policy(self._rows)
        for given, here in self._outputs:
            assert here is not None
            given.copy_(here)
