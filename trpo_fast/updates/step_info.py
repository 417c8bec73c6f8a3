"""What ``NaturalGradient`` returns: the report of a step, and the solution for several losses."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class StepInfo:
    """What a step did. ``reason`` is "accepted", or why no parameter moved: "zero_gradient",
    "non_finite", "negative_curvature" or "line_search_failed", as of ``UpdateInfo``. ``step_size``
    is the factor on the direction that was applied, 0 if nothing was; numbers of conjugate gradient
    are 0 for a direction that was given.
    """

    reason: str
    backend: str
    kl: float
    losses_before: tuple[float, ...]
    losses_after: tuple[float, ...]
    step_size: float
    backtracks: int
    quad: float = 0.0
    linear_gain: float = 0.0
    gradient_norm: float = 0.0
    cg_residual: float = 0.0
    cg_iterations: int = 0
    factor_rows: int = 0
    restarts: int = 0

    @property
    def accepted(self) -> bool:
        """Whether the parameters moved."""
        return self.reason == "accepted"

    @property
    def loss_before(self) -> float:
        """The first loss before the step."""
        return self.losses_before[0]

    @property
    def loss_after(self) -> float:
        """The same after it."""
        return self.losses_after[0]

    def as_dict(self) -> dict[str, Any]:
        """Everything by name, for a logger."""
        return asdict(self)


@dataclass(frozen=True)
class Directions:
    """Losses [K] at the present parameters, their gradients [P, K], and x = (F + damping I)^-1
    gradients [P, K] by conjugate gradient, all columns in one solve.
    """

    losses: Tensor
    gradients: Tensor
    x: Tensor

    @property
    def products(self) -> Tensor:
        """g_i' (F + damping I)^-1 g_j, [K, K] float64; symmetric up to the error of the solve."""
        return self.gradients.T.double() @ self.x.double()
