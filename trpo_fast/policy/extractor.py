"""Features of observations that keep their structure: images convolved, numbers as they are,
choices as indicators, side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._base.arguments import fail
from .._base.rows import Rows, parts_of
from .images import MAX_MATRIX_SIZE, Image, is_image


class Convolutions(nn.Module):
    """Images [N, *shape] to features [N, F]: scaled, convolved, ReLU after each convolution."""

    def __init__(
        self,
        space: Any,
        channels: Sequence[int],
        kernels: Sequence[int],
        strides: Sequence[int],
    ) -> None:
        super().__init__()
        self.image = Image.of_space(space)
        layers: list[nn.Module] = []
        depth, *size = self.image.planes
        for out, kernel, stride in zip(channels, kernels, strides, strict=True):
            size = [(side - kernel) // stride + 1 for side in size]
            if min(size) < 1:
                got = f"{tuple(kernels)} with cnn_strides {tuple(strides)}"
                wanted = (
                    f"kernels that fit an image of {' x '.join(map(str, self.image.planes[1:]))}"
                )
                raise fail("cnn_kernels", wanted, got)
            layer = nn.Conv2d(depth, out, kernel, stride)
            nn.init.orthogonal_(layer.weight, math.sqrt(2.0))
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            layers += [layer, nn.ReLU()]
            depth = out
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.features = depth * math.prod(size)

    def forward(self, obs: Tensor) -> Tensor:
        first: Any = self.layers[0]
        found: Tensor = self.layers(self.image.scaled(obs, first.weight.dtype))
        return found


class OneHot(nn.Module):
    """Choices [N, factors] to indicators [N, sum of nvec]."""

    def __init__(self, starts: Sequence[int], nvec: Sequence[int]) -> None:
        super().__init__()
        self.starts, self.nvec, self.features = tuple(starts), tuple(nvec), sum(nvec)

    def forward(self, obs: Tensor) -> Tensor:
        columns = obs.reshape(obs.shape[0], -1)
        pairs = enumerate(zip(self.starts, self.nvec, strict=True))
        found = [
            columns[:, i, None] - start == torch.arange(n, device=obs.device)
            for i, (start, n) in pairs
        ]
        return torch.cat(found, dim=1)

    def words(self) -> str:
        """Which choices there are."""
        ends = [(start, start + n - 1) for start, n in zip(self.starts, self.nvec, strict=True)]
        least, most = (list(end) if len(end) > 1 else end[0] for end in zip(*ends, strict=True))
        return f"choices from {least} to {most}"

    def outside(self, obs: Tensor) -> Tensor:
        """Which entries [N, factors] of choices are none of those that there are."""
        columns = obs.reshape(obs.shape[0], -1)
        low = torch.tensor(self.starts, device=obs.device)
        return (columns < low) | (columns >= low + torch.tensor(self.nvec, device=obs.device))


class Numbers(nn.Module):
    """Arrays [N, *shape] to numbers [N, F]."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.features = math.prod(shape)

    def forward(self, obs: Tensor) -> Tensor:
        return obs.reshape(obs.shape[0], -1)


class Extractor(nn.Module):
    """Features [N, F] of observations, side by side in the order of the space: convolved images,
    numbers as they are, choices as indicators.
    """

    def __init__(self, space: Any, **convolutions: Any) -> None:
        super().__init__()
        parts = _parts_of_space(space)
        _check_alone(space)
        self.names = [name for name, _ in parts]
        made = [_extractor(name, part, convolutions) for name, part in parts]
        self.parts = nn.ModuleList(made)
        self.features = sum(part.features for part in made)

    def forward(self, obs: Rows, kind: torch.dtype) -> Tensor:
        found = dict(parts_of(obs))
        if found.keys() != set(self.names):
            raise fail("obs", f"the parts {', '.join(self.names)}", ", ".join(found))
        pairs = zip(self.parts, self.names, strict=True)
        pieces = [part(found[name]).to(kind) for part, name in pairs]
        return torch.cat(pieces, dim=1) if len(pieces) > 1 else pieces[0]

    def choices(self) -> Iterator[tuple[str, OneHot]]:
        """The parts that are choices, by name."""
        for part, name in zip(self.parts, self.names, strict=True):
            if isinstance(part, OneHot):
                yield name, part


def _parts_of_space(space: Any, name: str = "obs") -> list[tuple[str, Any]]:
    """The spaces of an observation's parts, by the names of ``parts_of``."""
    from gymnasium import spaces

    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return [(name, space)]
    entries = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
    return [pair for key, one in entries for pair in _parts_of_space(one, f"{name}[{key!r}]")]


def _check_alone(space: Any) -> None:
    """Refuse an array that would go flat though nothing stands beside it."""
    shape = getattr(space, "shape", None) or ()
    if len(shape) > 1 and hasattr(space, "low") and not is_image(space):
        wanted = f"an image: uint8 of three dimensions, or more than {MAX_MATRIX_SIZE} numbers"
        raise fail("observation_space", wanted, f"{space.dtype} {list(shape)}")


def _extractor(
    name: str, space: Any, convolutions: dict[str, Any]
) -> Convolutions | OneHot | Numbers:
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        return OneHot([int(space.start)], [int(space.n)])
    if isinstance(space, spaces.MultiDiscrete):
        nvec = [int(n) for n in space.nvec.reshape(-1)]
        return OneHot([int(n) for n in space.start.reshape(-1)], nvec)
    if isinstance(space, spaces.Box) and is_image(space):
        return Convolutions(space, **convolutions)
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return Numbers(space.shape)
    wanted = "Box, Discrete, MultiBinary, MultiDiscrete, or Dict and Tuple of them"
    raise fail(f"observation_space ({name})", wanted, space)
