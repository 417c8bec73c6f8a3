"""Tiles of the kernels, from a table by architecture: never from timing, so that equal inputs give
equal bits on equal devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch


@dataclass(frozen=True)
class Tiles:
    """How the kernels cut their work. Rows and widths go by ``block``, sums by ``depth``."""

    block: int  # of rows and of columns; the scale of 16-bit planes is one such tile's
    depth: int  # divides block
    warps: int
    stages: int  # of loads under way
    programs: int  # that weight gradients are cut into, about: two a multiprocessor
    vector: int  # numbers a program, where all are independent


# Shared memory: 4 planes of block x depth 16-bit numbers a stage, 64 KiB at depth 64.
TILES = {
    "sm_80": Tiles(block=128, depth=32, warps=8, stages=3, programs=216, vector=1024),
    "sm_86": Tiles(block=128, depth=32, warps=8, stages=2, programs=168, vector=1024),
    "sm_90": Tiles(block=128, depth=64, warps=8, stages=3, programs=264, vector=1024),
    "sm_100": Tiles(block=128, depth=64, warps=8, stages=2, programs=296, vector=1024),
    "interpreter": Tiles(block=256, depth=256, warps=8, stages=1, programs=6, vector=65536),
}
MOST_PROGRAMS = 512  # on one vector: each adds up the partial sums of all
OUTPUTS = 32  # the fewest columns of a net's outputs: less is not faster


def architecture(capability: tuple[int, int]) -> str:
    """The table's entry for a device: 8.6, 8.9 and 12.x have 99 KiB of shared memory a block."""
    major, minor = capability
    if major < 10:
        return "sm_90" if major == 9 else "sm_86" if minor else "sm_80"
    return "sm_100" if major < 12 else "sm_86"


def tiles_for(device: torch.device) -> Tiles:
    """The entry of a device; the CPU is the interpreter's."""
    if device.type != "cuda":
        return TILES["interpreter"]
    return TILES[architecture(torch.cuda.get_device_capability(device))]


class Cut(NamedTuple):
    """Rows of weight gradients, cut into pieces of whole tiles."""

    pieces: int
    rows: int  # of a piece


class Shares(NamedTuple):
    """Programs on one vector, each of which takes some of its numbers in every round."""

    programs: int
    rounds: int


def shares_of(size: int, tiles: Tiles) -> Shares:
    """Of a vector with so many numbers."""
    blocks = -(-size // tiles.vector)
    programs = min(MOST_PROGRAMS, blocks)
    return Shares(programs, -(-blocks // programs))


def cut_rows(row_tiles: int, map_tiles: int, tiles: Tiles) -> Cut:
    """As many pieces as fill the device, however many right-hand sides there are."""
    wanted = max(1, min(row_tiles, tiles.programs // map_tiles))
    each = -(-row_tiles // wanted)
    return Cut(-(-row_tiles // each), each * tiles.block)
