"""Batches from the middle of training: what solves are like there, which random rows cannot show.

A file NAME.npz holds what benchmarks/record.py saw: ``obs`` [N, O] as the policy saw them,
``actions`` [N, A], normalised ``advantages`` [N], the policy's ``theta`` [P], and how it was made.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def read(name: str) -> dict[str, Tensor]:
    """The tensors of a recorded batch, in float32."""
    with np.load(Path(__file__).parent / f"{name}.npz", allow_pickle=False) as file:
        names = ("obs", "actions", "advantages", "theta")
        return {field: torch.from_numpy(file[field].astype(np.float32)) for field in names}
