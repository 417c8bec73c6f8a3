"""Acting in one native call: observations of all environments to actions, log-probabilities and
values.

    z = policy(o),  a = sample(z, noise),  log pi(a | o),  V(o) = mean + std v(o)

with o clipped and normalised on the way in if a normaliser is given. The noise is drawn from
torch's generator in one call, exactly as ``head.sample`` draws it, so both ways of acting choose
the same actions from the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._base import extension
from .._base.threads import kernel_threads
from ..backends.native import address, native_shape, net_support, readable
from ..backends.support import SERVES, Support, family_support
from ..core.checks import check_tensor
from ..policy.flat import every_parameter, flat_params
from ..policy.net import MLPPolicy
from .actor import Actor, ActTensors
from .input_checks import check_acting
from .normalise import ObservationNormaliser

ACT = "act for this policy and critic"

if TYPE_CHECKING:
    from .. import _C


def act_rows(tensors: Mapping[str, Tensor | None]) -> _C.ActRows:
    """What the kernels read and write of rows: tensors by the names of ``ActTensors``,
    and ``noise``. The caller keeps them alive.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    addresses = {name: tensor.data_ptr() for name, tensor in given.items()}
    return extension.native.ActRows(count=len(given["obs"]), **addresses)


def _native_act(policy: MLPPolicy, critic: Any) -> _C.Act:
    shapes = native_shape(policy.spec), native_shape(critic.net.spec)
    return extension.native.Act(policy=shapes[0], critic=shapes[1])


def act_support(policy: Any, critic: Any) -> Support:
    """Whether one native call acts for this policy and critic."""
    return (
        family_support("act")
        and parameter_support("policy", policy, "cpu")
        and parameter_support("critic", critic.net, "cpu")
    )


def parameter_support(argument: str, net: Any, device: str) -> Support:
    """Whether kernels compute this net, with its parameters on this type of device."""
    answer = net_support(argument, net)
    if not answer:
        return answer
    kinds = {(p.device.type, p.dtype) for p in net.parameters()}
    if kinds != {(device, torch.float32)}:
        place = "the CPU" if device == "cpu" else "a CUDA device"
        wanted = f"float32 parameters on {place}"
        return Support(f"{argument}: expected {wanted}, got {sorted(map(str, kinds))}")
    if net.head.noise == "none":
        wanted = "a head that chooses by noise of fixed size"
        return Support(f"{argument}: expected {wanted}, got {net.head}")
    return SERVES


class Address:
    """Where a net's flat parameters lie. ``pointer`` follows a move of all of them, as by
    ``module.to``; ``locate`` follows the replacement of a part as well, which takes too long for
    every step.
    """

    def __init__(self, net: MLPPolicy) -> None:
        self.net = net
        self.device = next(net.parameters()).device
        self._seen: tuple[Any, ...] = ()
        self.locate()

    def locate(self) -> None:
        """Find the parameters; a ``RuntimeError`` if they are none for the kernels any more."""
        if self._parts() == self._seen and not self.net.departure():
            return
        answer = parameter_support("policy", self.net, self.device.type)
        if not answer:
            raise RuntimeError(f"the policy changed after its actor was made: {answer.why_not}")
        if (now := next(self.net.parameters()).device) != self.device:
            raise RuntimeError(
                "the policy changed after its actor was made: expected parameters on "
                f"{self.device}, got {now}; make another actor"
            )
        self.flat = flat_params(self.net)
        self.first = next(self.net.parameters())
        self.address = self.flat.data_ptr()
        self._seen = self._parts()

    def _parts(self) -> tuple[Any, ...]:
        """Addresses of the parameters, which ``flat`` keeps from being used again, and modules."""
        addresses = tuple(p.data_ptr() for p in every_parameter(self.net))
        return addresses, tuple(self.net.net)

    def pointer(self) -> int:
        if self.first.data_ptr() != self.address:
            self.locate()
        return self.address


class KernelActor(Actor):
    """What acting through kernels keeps: the nets, where their parameters lie, the noise's form."""

    def __init__(
        self,
        native: _C.Act | _C.CudaAct,
        policy: MLPPolicy,
        critic: Any,
        generator: torch.Generator | None,
        normaliser: ObservationNormaliser | None,
    ) -> None:
        self.policy, self.critic, self.generator = policy, critic, generator
        self.normaliser = normaliser
        self._native = native
        self._policy, self._critic = Address(policy), Address(critic.net)
        self._inputs = policy.spec.widths[0]
        self.normal, self.noise_width = policy.head.noise == "normal", policy.head.noise_width
        self._shift: Tensor | None = None

    def recheck_nets(self) -> None:
        self._policy.locate()
        self._critic.locate()

    def room_for_noise(self, rows: int) -> Tensor:
        """[rows, ...] of what the kernels read, whatever torch's default dtype is by now."""
        with torch.inference_mode(False):  # it is drawn into at every call, wherever that is
            return self._policy.first.new_empty(rows, self.noise_width)


class NativeActor(KernelActor):
    """Acts through ``_C``: for float32 MLPs on the CPU, on contiguous tensors."""

    def __init__(
        self,
        policy: MLPPolicy,
        critic: Any,
        generator: torch.Generator | None = None,
        *,
        normaliser: ObservationNormaliser | None = None,
    ) -> None:
        act_support(policy, critic).insist("cpu", ACT)
        native = _native_act(policy, critic)
        super().__init__(native, policy, critic, generator, normaliser)
        self._act = native.act

    def bind(self, tensors: ActTensors) -> Callable[[], None]:
        self.recheck_nets()
        check_acting(self._policy.net, self._policy.first, *tensors)
        return _BoundAct(self, tensors)

    def values(self, obs: Tensor) -> Tensor:
        self._critic.locate()
        obs = readable(check_tensor("obs", obs, self._policy.first, (None, self._inputs)))
        out = obs.new_empty(obs.shape[0])
        if self.normaliser is not None:
            self._follow_normaliser()
        self._act(
            theta=0,
            critic_theta=self._critic.pointer(),
            value_shift=self.critic.mean.data_ptr(),
            value_scale=self.critic.std.data_ptr(),
            rows=act_rows({"obs": obs, "values": out}),
            threads=kernel_threads(),
        )
        return out

    def _follow_normaliser(self) -> None:
        assert self.normaliser is not None
        shift, scale = self.normaliser.shift, self.normaliser.scale
        if shift is not self._shift:
            like, shape = self._policy.first, (self._inputs,)
            rows = [readable(check_tensor("normaliser", t, like, shape)) for t in (shift, scale)]
            self._shift, self._rows = shift, rows  # kept alive: the native half has addresses
            self._native.normalise(
                shift=address(rows[0]), scale=address(rows[1]), clip=self.normaliser.clip
            )


class _BoundAct:
    """One call of an actor on tensors that are known to fit."""

    def __init__(self, actor: NativeActor, tensors: ActTensors) -> None:
        self._actor = actor
        self._noise = noise = actor.room_for_noise(len(tensors.obs))
        own = {n: None if t is None else t.detach() for n, t in tensors._asdict().items()}
        self._tensors = own  # own views of the memory whose addresses the native half gets
        self._rows = act_rows(own | {"noise": noise})
        self._threads_matter = len(noise) >= 256
        self._draw = noise.normal_ if actor.normal else noise.uniform_

    def __call__(self) -> None:
        actor, critic = self._actor, self._actor.critic
        self._draw(generator=actor.generator)
        if actor.normaliser is not None:
            actor._follow_normaliser()
        actor._act(
            theta=actor._policy.pointer(),
            critic_theta=actor._critic.pointer(),
            value_shift=critic.mean.data_ptr(),
            value_scale=critic.std.data_ptr(),
            rows=self._rows,
            threads=kernel_threads() if self._threads_matter else 1,
        )
