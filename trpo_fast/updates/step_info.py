"""What ``NaturalGradient`` returns: the report of a step, and the solution for several losses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

REASONS = (
    "accepted", "non_finite", "zero_gradient", "negative_curvature", "line_search_failed",
)  # fmt: skip
# What comes before the losses in a step's statistics.
NUMBERS = (
    "reason", "kl", "scale", "backtracks", "quad", "linear_gain", "gradient_norm", "cg_residual",
    "cg_iterations", "factor_rows", "restarts",
)  # fmt: skip
_WHOLE = ("backtracks", "cg_iterations", "factor_rows", "restarts")
_NAMES = (
    "reason", "backend", "kl", "losses_before", "losses_after", "step_size", "backtracks", "quad",
    "linear_gain", "gradient_norm", "cg_residual", "cg_iterations", "factor_rows", "restarts",
)  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class StepInfo:
    """What a step did. ``reason`` is "accepted", or why no parameter moved: "zero_gradient",
    "non_finite", "negative_curvature" or "line_search_failed", as of ``UpdateInfo``. ``step_size``
    is the factor on the direction that was applied, 0 if nothing was; numbers of conjugate gradient
    are 0 for a direction that was given. The numbers stay on the device until the first is read.
    """

    backend: str
    stats: Tensor  # NUMBERS, K losses before and K after; float64
    ratio: float  # by which a trial shortens the step
    captured: bool = False  # whether it was the replay of a recorded step

    @cached_property
    def _values(self) -> dict[str, Any]:
        read = self.stats.tolist()
        values: dict[str, Any] = dict(zip(NUMBERS, read, strict=False))
        losses = read[len(NUMBERS) :]
        values |= {name: int(values[name]) for name in _WHOLE}
        taken = values["reason"] == 0
        size = values.pop("scale") * self.ratio ** values["backtracks"] if taken else 0.0
        half = len(losses) // 2
        return values | {
            "reason": REASONS[int(values["reason"])],
            "backend": self.backend,
            "step_size": size,
            "losses_before": tuple(losses[:half]),
            "losses_after": tuple(losses[half:]),
        }

    @property
    def reason(self) -> str:
        """ "accepted", or why no parameter moved."""
        return str(self._values["reason"])

    @property
    def accepted(self) -> bool:
        """Whether the parameters moved."""
        return self.reason == "accepted"

    @property
    def kl(self) -> float:
        """The KL that the step reached; 0 if nothing moved."""
        return float(self._values["kl"])

    @property
    def losses_before(self) -> tuple[float, ...]:
        """Every loss before the step."""
        before: tuple[float, ...] = self._values["losses_before"]
        return before

    @property
    def losses_after(self) -> tuple[float, ...]:
        """The same after it."""
        after: tuple[float, ...] = self._values["losses_after"]
        return after

    @property
    def loss_before(self) -> float:
        """The first loss before the step."""
        return self.losses_before[0]

    @property
    def loss_after(self) -> float:
        """The same after it."""
        return self.losses_after[0]

    @property
    def step_size(self) -> float:
        """The factor on the direction that was applied; 0 if nothing was."""
        return float(self._values["step_size"])

    @property
    def backtracks(self) -> int:
        """How often the step was shortened."""
        return int(self._values["backtracks"])

    @property
    def quad(self) -> float:
        """x'(F + damping I)x of the search direction."""
        return float(self._values["quad"])

    @property
    def linear_gain(self) -> float:
        """g'x of the search direction."""
        return float(self._values["linear_gain"])

    @property
    def gradient_norm(self) -> float:
        """|g|, of the loss."""
        return float(self._values["gradient_norm"])

    @property
    def cg_residual(self) -> float:
        """|g - A x| where conjugate gradient stopped."""
        return float(self._values["cg_residual"])

    @property
    def cg_iterations(self) -> int:
        """Iterations of conjugate gradient that moved x."""
        return int(self._values["cg_iterations"])

    @property
    def factor_rows(self) -> int:
        """Rows that the preconditioner's factors were made from; 0 without one."""
        return int(self._values["factor_rows"])

    @property
    def restarts(self) -> int:
        """1 where the preconditioner failed and plain conjugate gradient began anew."""
        return int(self._values["restarts"])

    def as_dict(self) -> dict[str, Any]:
        """Everything by name, for a logger."""
        return {name: self._values[name] for name in _NAMES}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StepInfo) and self.as_dict() == other.as_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Every number; waits for the device unless one was read before."""
        return f"StepInfo({', '.join(f'{n}={v!r}' for n, v in self.as_dict().items())})"


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
