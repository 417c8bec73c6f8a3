"""Gymnasium spaces from what simulators say of theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def actions_of(space: Any) -> Any:
    """The action space as gymnasium's: itself, or a Box of its shape and bounds."""
    from gymnasium import Space
    from gymnasium.spaces import Box

    if isinstance(space, Space):
        return space
    low, high = (
        np.broadcast_to(np.asarray(bound, np.float32), space.shape)
        for bound in (space.low, space.high)
    )
    return Box(low.copy(), high.copy(), dtype=np.float32)


def device_of(place: Any) -> torch.device:
    """The device of a name; a plain "cuda" is the one in use."""
    device = torch.device(str(place))
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
