"""A launch of a Triton kernel, with what may go wrong at its first use as a sentence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.problem import BackendUnavailable
from .tiles import Tiles


def launch(
    kernel: Any, grid: tuple[int, ...], at: Tensor, tiles: Tiles, *arguments: Any, **constants: Any
) -> None:
    """``kernel`` on the current stream of the device that ``at`` lies on."""
    options = {
        "num_warps": tiles.warps, "num_stages": tiles.stages, "enable_fp_fusion": True,
    }  # fmt: skip
    try:
        if at.device.type == "cuda" and at.device.index != torch.cuda.current_device():
            with torch.cuda.device(at.device):
                kernel[grid](*arguments, **constants, **options)
        else:
            kernel[grid](*arguments, **constants, **options)
    except Exception as error:  # Triton has no class of its own for all that a compiler may say
        if isinstance(error, (BackendUnavailable, MemoryError)):
            raise
        first = str(error).strip().split("\n")[0]
        raise BackendUnavailable(
            f"backend='cuda' failed, nothing was changed: Triton's kernel {kernel.__name__}: "
            f"{type(error).__name__}: {first}"
        ) from error
