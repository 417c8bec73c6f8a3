"""Where the tests of wide nets run: on a CUDA device, otherwise in Triton's interpreter."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import Case, random_vector
from cuda_support import DEVICE, problem, to_device
from torch import Tensor

from trpo_fast.backends.reference import ReferenceOperator
from trpo_fast.backends.wide.tiles import Tiles

PRECISIONS = ("fp16x3", "bf16x3", "tf32", "fp32")
# Sixteen numbers a tile of what the device has: many tiles, pieces and steps in a small net.
SMALL = Tiles(block=64, depth=32, warps=4, stages=2, programs=40, vector=1024)

needs_triton = [
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="triton is not installed"
    ),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
]


class Wide:
    """One case three times: the kernels, and the reference in float32 and float64."""

    def __init__(self, case: Case, *, tiles: Tiles | None = None, **options: Any) -> None:
        from trpo_fast.backends.wide.operator import WideOperator

        case = replace(case, dtype=torch.float32)
        self.policy = case.policy().to(DEVICE)
        self.batch = to_device(case.batch(case.policy()))
        options = _on(DEVICE, options)
        plain = {name: value for name, value in options.items() if name != "precision"}
        on_device = problem(self.policy, self.batch, **options)
        self.kernels = WideOperator(on_device, tiles=tiles)
        self.single = ReferenceOperator(problem(self.policy, self.batch, **plain))
        exact = to_device(self.batch, torch.float64, "cpu")
        self.exact = ReferenceOperator(problem(case.policy().double(), exact, **_on("cpu", plain)))

    def vector(self, columns: int | None = None) -> Tensor:
        v = random_vector(self.policy, columns=columns)
        return (v.float() if columns is None else v.float().T.contiguous()).to(DEVICE)

    def products(self, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the kernels, of float32 and of float64."""
        return (
            self.kernels.fvp(v).cpu(),
            self.single.fvp(v).cpu(),
            self.exact.fvp(v.double().cpu()),
        )


def _on(device: Any, options: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in options.items()
    }
