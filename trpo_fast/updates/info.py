"""``UpdateInfo``: what an update reports, on the device until it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from ..core.problem import REASONS, STATS

# Whether a KL is from the policy of the call or from the one of the batch's old_params.
KlFrom = Literal["call", "sampler"]


@dataclass
class UpdateInfo:
    """What an update did: why it ended, KL, surrogate before and after, and numbers of CG and line
    search. They stay on the device until the first of them is read.

    >>> info.reason, info.kl, info.surrogate_after - info.surrogate_before
    ('accepted', 0.0098, 0.031)
    """

    backend: str
    stats: Tensor  # [len(STATS)] float64
    kl_from: KlFrom = "call"  # which policy kl and max_state_kl are measured from
    captured: bool = False  # whether it was the replay of a recorded update
    _values: dict[str, float] | None = field(default=None, repr=False)

    def _read(self, name: str) -> float:
        if self._values is None:
            self._values = dict(zip(STATS, self.stats.tolist(), strict=True))
        return self._values[name]

    @property
    def reason(self) -> str:
        """ "accepted", or why no parameter moved.

        bad_values           the batch holds what no update can use
        zero_gradient        there is nothing to gain
        non_finite           the gradient, the solution or the only step tried is NaN or infinite
        negative_curvature   p'Fp <= 0 in the first iteration of CG, or a direct solve without a
                             Cholesky factor
        line_search_failed   no step tried was within the limits and better
        at_kl_limit          the call began as far from the batch's old_params as its limit or
                             penalty lets it go
        """
        return REASONS[int(self._read("reason"))]

    @property
    def accepted(self) -> bool:
        """Whether the parameters moved."""
        return self.reason == "accepted"

    @property
    def kl(self) -> float:
        """Mean KL between the policy before this call, or that of the batch's ``old_params``
        (``kl_from``), and the one after it, in the reduction and direction asked for. Without
        ``old_params`` each of several updates on one batch counts from where it began.
        """
        return self._read("kl")

    @property
    def max_state_kl(self) -> float:
        """The largest KL of one state."""
        return self._read("max_state_kl")

    @property
    def surrogate_before(self) -> float:
        """Weighted mean of ratio times advantage, before the update."""
        return self._read("surrogate_before")

    @property
    def surrogate_after(self) -> float:
        """The same after it."""
        return self._read("surrogate_after")

    @property
    def entropy(self) -> float:
        """Mean entropy of the policy after the update."""
        return self._read("entropy")

    @property
    def step_size(self) -> float:
        """The factor on the search direction that was applied; 0 if nothing was."""
        return self._read("step_size")

    @property
    def backtracks(self) -> int:
        """How often the step was shortened."""
        return int(self._read("backtracks"))

    @property
    def quad(self) -> float:
        """x'(F + damping I)x of the search direction."""
        return self._read("quad")

    @property
    def cg_residual(self) -> float:
        """|g - A x| where CG stopped, or of a direct solve."""
        return self._read("cg_residual")

    @property
    def cg_iterations(self) -> int:
        """Iterations of CG that moved x; 0 for a direct solve."""
        return int(self._read("cg_iterations"))

    @property
    def gradient_norm(self) -> float:
        """|g|, of the surrogate's gradient."""
        return self._read("gradient_norm")

    @property
    def linear_gain(self) -> float:
        """g'x of the search direction: times the step, what the surrogate gains to first order."""
        return self._read("linear_gain")

    @property
    def factor_rows(self) -> int:
        """Rows that the preconditioner's factors were made from; 0 without one."""
        return int(self._read("factor_rows"))

    @property
    def scaled_blocks(self) -> int:
        """Tensors of parameters that the preconditioner has no factors of and only scales."""
        return int(self._read("scaled_blocks"))

    @property
    def restarts(self) -> int:
        """1 where the preconditioner was not positive and finite and plain CG began anew."""
        return int(self._read("restarts"))

    def __repr__(self) -> str:
        """Every number; waits for the device unless one was read before."""
        numbers = ", ".join(f"{name}={self._read(name):.6g}" for name in STATS[1:])
        return f"UpdateInfo({self.reason}, backend={self.backend!r}, {numbers})"

    def refresh(self) -> None:
        """Have the numbers read from the device again at the next access: after the replay of a
        CUDA graph that captured the update.
        """
        self._values = None

    def as_dict(self) -> dict[str, float | str]:
        """Every number by name, for a logger."""
        numbers: dict[str, float | str] = {name: self._read(name) for name in STATS[1:]}
        return {"reason": self.reason, "backend": self.backend, **numbers}
