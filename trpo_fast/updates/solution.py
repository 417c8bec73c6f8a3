"""``Solution``: what a solve found."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .._base.arguments import describe


@dataclass(frozen=True)
class Solution:
    """What ``solve`` found for (F + damping I) x = g: x [P] or [P, K], and for each column of g
    quad = x'(F + damping I)x, residual_norm = |g - (F + damping I)x|, iterations of CG, linear_gain
    = g'x, and whether the preconditioner failed and plain CG began anew (restarts, 0 or 1).
    """

    x: Tensor
    quad: Tensor
    residual_norm: Tensor
    iterations: Tensor
    linear_gain: Tensor
    restarts: Tensor
    factor_rows: int = 0  # rows that the preconditioner's factors were made from
    scaled_blocks: int = 0  # tensors of parameters that it has no factors of

    def __repr__(self) -> str:
        """The shape of x and the numbers, which are waited for."""
        numbers = {
            n: v.tolist() if isinstance(v, Tensor) else v for n, v in vars(self).items() if n != "x"
        }
        shown = ", ".join(f"{name}={value}" for name, value in numbers.items())
        return f"Solution(x={describe(self.x)}, {shown})"
