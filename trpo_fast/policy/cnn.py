"""``CNNPolicy``: convolutions for images, beside their features whatever else is observed, and
layers to an action head. Observations are those of a gymnasium space: an array, dicts or tuples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .._base.arguments import check_counts, check_device, check_dtype, check_number, fail
from .._base.choices import ActionMode, Activation, Std
from .._base.net_options import PolicySettings
from .._base.rows import Rows
from .extractor import Convolutions as Convolutions  # where saved policies look for them
from .extractor import Extractor as Extractor
from .extractor import Numbers as Numbers
from .extractor import OneHot as OneHot
from .flat import flat_params
from .heads import Head, check_is_head, head_for_space
from .net import drawn_for, mlp

HIDDEN = (512,)  # after the convolutions, as in the network of Nature's article on Atari games


class _Net(nn.Module):
    """Features of observations, and layers on them."""

    def __init__(
        self,
        space: Any,
        outputs: int,
        hidden: Sequence[int],
        activation: Activation,
        convolutions: dict[str, Any],
        output_gain: float,
    ) -> None:
        super().__init__()
        for name in ("channels", "kernels", "strides"):
            convolutions[name] = check_counts(f"cnn_{name}", convolutions[name])
        if len({len(counts) for counts in convolutions.values()}) != 1:
            raise fail("cnn_channels", "as many as cnn_kernels and cnn_strides", convolutions)
        check_number("output_gain", output_gain)
        self.extractor = Extractor(space, **convolutions)
        widths = (self.extractor.features, *check_counts("hidden", hidden), outputs)
        gain = math.sqrt(2.0)
        self.layers = mlp(widths, activation, hidden_gain=gain, output_gain=output_gain)

    def forward(self, obs: Rows) -> Tensor:
        first: Any = self.layers[0]
        found: Tensor = self.layers(self.extractor(obs, first.weight.dtype))
        return found


class CNNPolicy(nn.Module):
    """Convolutions and layers from observations of a gymnasium space to an action distribution.

    Images are [C, H, W] or [H, W, C] of uint8, or frames of them stacked [S, ...]; with more than
    4096 numbers floats and [H, W] are images too. They are scaled to [0, 1] by the bounds of their
    space. All else, numbers and choices of a Dict or Tuple, goes flat beside their features.

    >>> policy = CNNPolicy(Box(0, 255, (4, 84, 84), np.uint8), Categorical(6))
    >>> policy(torch.zeros(5, 4, 84, 84, dtype=torch.uint8)).sample().shape
    torch.Size([5])
    """

    def __init__(
        self,
        observation_space: Any,
        head: Head,
        hidden: Sequence[int] = HIDDEN,
        activation: Activation = "relu",
        *,
        channels: Sequence[int] = PolicySettings.cnn_channels,
        kernels: Sequence[int] = PolicySettings.cnn_kernels,
        strides: Sequence[int] = PolicySettings.cnn_strides,
        output_gain: float = 0.01,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_is_head(head)
        convolutions = {"channels": channels, "kernels": kernels, "strides": strides}
        self.net = _made(
            observation_space, head.outputs, hidden, activation, convolutions, output_gain, device
        )
        self.head = head
        _placed(self, dtype, device)

    @classmethod
    def for_spaces(
        cls,
        observation_space: Any,
        action_space: Any,
        hidden: Sequence[int] = HIDDEN,
        activation: Activation = "relu",
        *,
        std: Std = PolicySettings.std,
        action_mode: ActionMode = PolicySettings.action_mode,
        **options: Any,
    ) -> CNNPolicy:
        """The policy for two gymnasium spaces, with the head that ``MLPPolicy.for_spaces`` has."""
        head = head_for_space(action_space, std=std, action_mode=action_mode)
        return cls(observation_space, head, hidden, activation, **options)

    def distribution_params(self, obs: Rows, action_mask: Tensor | None = None) -> Tensor:
        """Distribution parameters [N, D] at rows obs; action_mask [N, Z] bool, True = allowed."""
        return self.head.distribution_params(self.net(obs), mask=action_mask)

    def forward(self, obs: Rows, action_mask: Tensor | None = None) -> Distribution:
        """The torch distribution of the actions at rows obs; action_mask [N, Z] bool, True =
        allowed.
        """
        return self.head.distribution(self.distribution_params(obs, action_mask))

    if TYPE_CHECKING:  # torch calls forward, and says Any

        def __call__(self, obs: Rows, action_mask: Tensor | None = None) -> Distribution: ...


class CNNValues(nn.Module):
    """Convolutions and layers from observations of a gymnasium space to values [N, 1]: the critic
    beside a ``CNNPolicy``, with convolutions of its own.

    >>> values = CNNValues(Box(0, 255, (4, 84, 84), np.uint8))
    >>> values(torch.zeros(5, 4, 84, 84, dtype=torch.uint8)).shape
    torch.Size([5, 1])
    """

    def __init__(
        self,
        observation_space: Any,
        hidden: Sequence[int] = HIDDEN,
        activation: Activation = "relu",
        *,
        channels: Sequence[int] = PolicySettings.cnn_channels,
        kernels: Sequence[int] = PolicySettings.cnn_kernels,
        strides: Sequence[int] = PolicySettings.cnn_strides,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        convolutions = {"channels": channels, "kernels": kernels, "strides": strides}
        self.net = _made(observation_space, 1, hidden, activation, convolutions, 1.0, device)
        _placed(self, dtype, device)

    def forward(self, obs: Rows) -> Tensor:
        """Values [N, 1] at rows obs."""
        found: Tensor = self.net(obs)
        return found


def _made(
    space: Any,
    outputs: int,
    hidden: Sequence[int],
    activation: Activation,
    convolutions: dict[str, Any],
    output_gain: float,
    device: torch.device | str | None,
) -> _Net:
    """The net, drawn where ``MLPPolicy``'s is."""
    from gymnasium.spaces import Space

    if not isinstance(space, Space):
        raise fail("observation_space", "a gymnasium space", repr(space))
    check_device("device", device)
    with drawn_for(device):
        return _Net(space, outputs, hidden, activation, convolutions, output_gain)


def _placed(
    module: nn.Module, dtype: torch.dtype | None, device: torch.device | str | None
) -> None:
    check_dtype("dtype", dtype)
    module.to(device=device, dtype=dtype)
    flat_params(module)
