"""A launch of a Triton kernel, with what may go wrong at its first use as a sentence."""

from __future__ import annotations

import contextlib
from subprocess import SubprocessError
from typing import Any

import torch
from torch import Tensor
from triton.errors import TritonError

from ...core.problem import BackendUnavailable
from .tiles import Tiles


def launch(
    kernel: Any, grid: tuple[int, ...], at: Tensor, tiles: Tiles, *arguments: Any, **constants: Any
) -> None:
    """``kernel`` on the current stream of the device that ``at`` lies on."""
    options = {
        "num_warps": tiles.warps, "num_stages": tiles.stages, "enable_fp_fusion": True,
    }  # fmt: skip
    device = at.device
    elsewhere = device.type == "cuda" and device.index != torch.cuda.current_device()
    try:
        with torch.cuda.device(device) if elsewhere else contextlib.nullcontext():
            kernel[grid](*arguments, **constants, **options)
    except (TritonError, OSError, SubprocessError) as error:  # of a compiler, or the interpreter
        first = str(error).strip().split("\n")[0]
        raise BackendUnavailable(
            f"backend='cuda' failed, nothing was changed: Triton's {kernel.__name__}: "
            f"{type(error).__name__}: {first}"
        ) from error
