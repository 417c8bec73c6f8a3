"""Acting on the device in one launch: what ``act.NativeActor`` is on the CPU, with noise from the
device's generator and nothing that waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import _native
from .act import Address, native_shape, refused
from .backend import BackendUnavailable
from .cuda_backend import connected, current_stream, device_index, explained, missing
from .policy import MLPPolicy

if TYPE_CHECKING:
    from .normalize import ObservationNormaliser


def unavailable(policy: MLPPolicy, critic: Any) -> str:
    """Why the kernels cannot act for this policy and critic; empty if they can."""
    reason = missing() or refused(policy, critic, "cpu" if _native.emulating() else "cuda")
    if reason:
        return reason
    try:
        _native_act(policy, critic)
    except BackendUnavailable as error:
        return str(error)
    return ""


def _native_act(policy: MLPPolicy, critic: Any) -> Any:
    index = device_index(next(policy.parameters()).device)
    with explained():
        return connected().CudaAct(native_shape(policy.spec), native_shape(critic.net.spec), index)


class CudaActor:
    """Acts through the CUDA kernels for float32 MLPs on a device. Observations are float32 and
    contiguous; those from another device are copied there, and the answers back.
    """

    def __init__(
        self,
        policy: MLPPolicy,
        critic: Any,
        generator: torch.Generator | None = None,
        *,
        normaliser: ObservationNormaliser | None = None,
    ) -> None:
        if reason := unavailable(policy, critic):
            raise BackendUnavailable(f"backend='cuda' cannot act: {reason}")
        self.policy, self.critic, self.generator = policy, critic, generator
        self.normaliser = normaliser
        self.device = next(policy.parameters()).device
        self._native = _native_act(policy, critic)
        self._policy, self._critic = Address(policy), Address(critic.net)
        self._normal = policy.spec.head.startswith("gaussian")
        self._noise = policy.head.action_shape[0] if self._normal else policy.spec.widths[-1]
        self._shift: Tensor | None = None

    def act(
        self,
        obs: Tensor,
        mask: Tensor | None,
        actions: Tensor,
        log_probs: Tensor,
        values: Tensor,
        seen: Tensor | None = None,
    ) -> None:
        """Write actions, log-probabilities and values for observations [E, O] into the given
        tensors, and into ``seen`` the observations as the nets saw them.
        """
        noise = torch.empty(len(obs), self._noise, device=self.device)
        if self._normal:
            noise.normal_(generator=self.generator)
        else:
            noise.uniform_(generator=self.generator)
        given = (actions, log_probs, values, seen)
        here = [None if out is None else self._beside(out) for out in given]
        obs, mask = obs.to(self.device), None if mask is None else mask.to(self.device)
        self._launch(self._policy.pointer(), obs, mask, noise, here)
        for out, written in zip(given, here, strict=True):
            if out is not None and written is not None and written is not out:
                out.copy_(written)

    def values(self, obs: Tensor) -> Tensor:
        """Values [N] of observations [N, O], on the device the observations came from."""
        rows = obs.to(self.device).contiguous()
        out = rows.new_empty(len(rows))
        self._launch(0, rows, None, None, [None, None, out, None])
        return out.to(obs.device)

    def _beside(self, out: Tensor) -> Tensor:
        """``out`` itself, or a tensor like it on the nets' device."""
        return out if out.device == self.device else torch.empty_like(out, device=self.device)

    def _launch(
        self,
        theta: int,
        obs: Tensor,
        mask: Tensor | None,
        noise: Tensor | None,
        outputs: list[Tensor | None],
    ) -> None:
        if self.normaliser is not None:
            self._follow_normaliser()
        actions, log_probs, values, seen = (0 if t is None else t.data_ptr() for t in outputs)
        with explained():
            self._native.act(
                theta,
                self._critic.pointer(),
                self.critic.mean.data_ptr(),
                self.critic.std.data_ptr(),
                obs.data_ptr(),
                seen,
                0 if mask is None else mask.data_ptr(),
                0 if noise is None else noise.data_ptr(),
                actions,
                log_probs,
                values,
                len(obs),
                current_stream(self.device),
            )

    def _follow_normaliser(self) -> None:
        assert self.normaliser is not None
        if self.normaliser.shift is not self._shift:
            self._shift = self.normaliser.shift
            # Kept alive, and on the nets' device: the native half has addresses.
            self._moved = (self._shift.to(self.device), self.normaliser.scale.to(self.device))
            shift, scale = (t.data_ptr() for t in self._moved)
            self._native.normalise(shift, scale, self.normaliser.clip)
