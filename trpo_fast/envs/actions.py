"""From what a policy's head samples to what an environment's action space takes.

clip     a -> min(max(a, low), high)
scale    a -> box(min(max(a, -1), 1))
squash   a -> box(tanh(a)); the stored action stays a, so ratios and KL are the Gaussian's
beta     a in (0, 1) -> box(2 a - 1)

with box(u) = min(max(base + (u + shift) reach, low), high), where base = low and shift = 1, or the
centre and 0 where high - low overflows: finite in every finite box, and in it whatever is rounded.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from .._base.arguments import fail
from .._base.choices import ActionMode

MODES: tuple[str, ...] = get_args(ActionMode)


class ActionMap:
    """Maps stored actions [E, ...] to the environment's, as arrays on the host or as tensors on
    a device.
    """

    def __init__(self, space: Any, mode: str = "scale") -> None:
        from gymnasium import spaces

        if mode not in MODES:
            raise ValueError(f"action_mode: expected one of {MODES}, got {mode!r}")
        self.space, self.mode = space, mode
        self.start: np.ndarray | None = None  # lowest choice of a discrete space, when it is not 0
        self.continuous = isinstance(space, spaces.Box)
        self.dtype: torch.dtype | None = None  # of tensors, where it is not that of stored actions
        self.discrete = discrete = isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
        if space.dtype != (np.int64 if discrete else np.float32):
            with suppress(TypeError):  # torch has no such type, such as longdouble
                self.dtype = torch.from_numpy(np.zeros(0, space.dtype)).dtype
        self._kept: dict[torch.device, tuple[Tensor, ...]] = {}
        if self.continuous:
            with np.errstate(over="ignore"):  # float64 bounds past float32's are none
                self.low = np.asarray(space.low, np.float32).reshape(-1)
                self.high = np.asarray(space.high, np.float32).reshape(-1)
            self.bounded = bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())
            if mode in ("squash", "beta") and not self.bounded:
                wanted = "'clip' or 'scale' for a Box without bounds"
                raise fail("action_mode", wanted, repr(mode))
            if not self.bounded:
                self.mode = "clip"  # nothing to scale to; infinite bounds clip nothing
            half = np.float32(0.5)
            with np.errstate(invalid="ignore", over="ignore"):  # without bounds these are unused
                wide = ~np.isfinite(self.high - self.low)
                self.base = np.where(wide, half * self.high + half * self.low, self.low)
                self.shift = np.where(wide, np.float32(0.0), np.float32(1.0))
                reach = half * (self.high - self.low)
                self.reach = np.where(wide, half * self.high - half * self.low, reach)
        elif discrete:
            start = np.asarray(space.start, np.int64)
            self.start = start if start.any() else None

    def host(self, actions: np.ndarray) -> np.ndarray:
        """Actions [E, A] or [E] as an array that the vector environment takes."""
        if not self.continuous:
            if len(self.space.shape) > 1:
                actions = actions.reshape(-1, *self.space.shape)
            if self.start is not None:
                actions = actions + self.start
            return actions if self.dtype is None else actions.astype(self.space.dtype)
        if self.mode == "squash":
            actions = np.tanh(actions)
        elif self.mode == "beta":
            actions = actions + actions - 1
        elif self.mode == "scale":
            actions = np.minimum(np.maximum(actions, -1.0), 1.0)
        if self.mode != "clip":
            actions = self.base + (actions + self.shift) * self.reach
        result = np.minimum(np.maximum(actions, self.low), self.high)
        if self.space.shape != result.shape[1:]:
            result = result.reshape(-1, *self.space.shape)
        return result if result.dtype == self.space.dtype else result.astype(self.space.dtype)

    def device(self, actions: Tensor) -> Tensor:
        """The same for tensors, in the same shapes and types; stays on their device."""
        if not self.continuous:
            if self.start is not None:
                actions = actions + self._on(actions.device)[0]
            return self._shaped(actions)
        low, high, base, shift, reach = self._on(actions.device)
        if self.mode == "squash":
            actions = torch.tanh(actions)
        elif self.mode == "beta":
            actions = actions + actions - 1
        elif self.mode == "scale":
            actions = actions.clamp(-1.0, 1.0)
        if self.mode != "clip":
            actions = base + (actions + shift) * reach
        return self._shaped(actions.clamp(low, high))

    def _shaped(self, actions: Tensor) -> Tensor:
        """Rows in the shape and type of the space."""
        if self.space.shape != actions.shape[1:]:
            actions = actions.reshape(-1, *self.space.shape)
        return actions if self.dtype is None else actions.to(self.dtype)

    def prepare(self, device: torch.device) -> None:
        """Keep the bounds on a device: copying them there in every step would wait for it."""
        self._kept[device] = self._on(device)

    def _on(self, device: torch.device) -> tuple[Tensor, ...]:
        """The bounds, or the lowest choice, on a device."""
        if device in self._kept:
            return self._kept[device]
        if self.continuous:
            flat = [self.low, self.high, self.base, self.shift, self.reach]
        else:
            flat = [] if self.start is None else [self.start.reshape(-1)]
        return tuple(torch.as_tensor(array, device=device) for array in flat)
