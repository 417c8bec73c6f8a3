"""Everything a backend needs to know of an update, already checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from .._base.options import UpdateSettings
from .._base.ranks import Ranks, told
from .batch import Batch

# Names of what an update reports and why it stopped: the orders of enum Stat and enum Reason in
# csrc/shared/params.h.
STATS = (
    "reason",
    "kl",
    "max_state_kl",
    "surrogate_before",
    "surrogate_after",
    "entropy",
    "step_size",
    "backtracks",
    "quad",
    "cg_residual",
    "cg_iterations",
    "gradient_norm",
    "linear_gain",
    "factor_rows",
    "scaled_blocks",
    "restarts",
)
REASONS = (
    "accepted",
    "zero_gradient",
    "non_finite",
    "bad_values",
    "negative_curvature",
    "line_search_failed",
    "at_kl_limit",
)


@told
class BackendUnavailable(RuntimeError):
    """The backend asked for by name cannot serve; the message says why and what to do."""


@dataclass(frozen=True)
class Share:
    """What one process has of rows that lie on several ranks, numbered rank by rank."""

    ranks: Ranks
    rows: int  # of all ranks
    here: int  # of this one; a batch of none has one of weight zero in their place
    first: int  # how many lie on the ranks before this one
    total: float  # weight of all rows
    own: float  # of this rank's
    fisher_rows: int  # the same of the rows of Fisher-vector products
    fisher_first: int
    fisher_total: float
    fisher_own: float


@dataclass(frozen=True)
class Problem:
    """A policy, its rows and the definition of its Fisher matrix."""

    policy: nn.Module
    theta: Tensor  # [P], the flat view: an accepted update writes it
    batch: Batch
    damping: float
    kl_scale: float = 1.0
    reverse_kl: bool = False
    fisher: str = "analytic"
    fvp_rows: Tensor | None = None  # [M] increasing row indices, fixed across CG
    chunk_rows: int | None = None
    precision: str = "fp32"
    deterministic: bool = True  # equal bits from equal inputs
    constraint: str = "mean"  # which KL max_kl limits in a line search
    capture: bool = True  # whether work on a device may be recorded and replayed
    share: Share | None = None  # where other processes have rows as well

    def fisher_batch(self) -> Batch:
        """The rows that Fisher-vector products see."""
        return self.of_fvp_rows(self.batch)

    def of_fvp_rows(self, batch: Batch) -> Batch:
        """The rows of a batch that Fisher-vector products see. An index that is none stands for the
        nearest row until the table of bad values is asked.
        """
        if self.fvp_rows is None:
            return batch
        return batch.rows(self.fvp_rows.clamp(0, len(batch) - 1))


@dataclass(frozen=True)
class CgConfig:
    """How (F + damping I) x = g is solved. A callable takes residuals [P], or [P, K] of several
    right-hand sides, to M^-1 r of the same shape.
    """

    iterations: int = UpdateSettings.cg_iterations
    tol: float = UpdateSettings.cg_tol
    gain_tol: float = UpdateSettings.cg_gain_tol
    preconditioner: Literal["kfac"] | Callable[[Tensor], Tensor] | None = None
    fraction: float = UpdateSettings.factor_fraction  # of the product's rows, for the factors


@dataclass(frozen=True)
class UpdateConfig:
    """How far to go along the solution. ``search=False`` takes the one full step if it is
    finite.
    """

    max_kl: float | Tensor = UpdateSettings.max_kl  # 0-d in work that is recorded
    cg: CgConfig = CgConfig()
    backtrack_ratio: float = UpdateSettings.backtrack_ratio
    backtrack_steps: int = UpdateSettings.backtrack_steps
    search: bool = True
    learning_rate: float | None = None  # of x itself; None: the KL-normalised step
