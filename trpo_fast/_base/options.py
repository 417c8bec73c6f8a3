"""The options of updates: type, range, default and description of each, stated here and nowhere
else. Those of policies and critics are in net_options.py.

``Config`` inherits these groups, so that each option is a setting of a run and a flag as well; the
update functions take their defaults and checks from them. Where a function's argument has a shorter
name, ``pg_update(learning_rate=...)`` for ``pg_learning_rate``, its signature says which it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypedDict, get_args, get_type_hints

from torch import Tensor
from torch.distributed import ProcessGroup
from typing_extensions import Doc

from .arguments import MAX_INT
from .choices import (
    Backend,
    Constraint,
    FisherKind,
    KlDirection,
    KlReduction,
    PenaltyInner,
    PenaltyRule,
    Precision,
    PreconditionerKind,
)
from .settings import Above, AtLeast, AtMost, Below

COUNT = AtMost(MAX_INT)
LONG = AtMost(2**63 - 1)  # an int64


KlReductionOption = Annotated[
    KlReduction,
    Doc("KL of several action dimensions: their sum, or their mean as in sb3-contrib and omnisafe"),
]
KlDirectionOption = Annotated[
    KlDirection,
    Doc("the KL that updates are held to: forward KL(old || new), or reverse KL(new || old)"),
]
ConstraintOption = Annotated[
    Constraint,
    Doc(
        "what the line search of trpo holds to max_kl: the mean KL, or the largest KL of a state, "
        "which takes more backtracks"
    ),
]
FisherOption = Annotated[
    FisherKind,
    Doc("curvature in closed form, or from the gradients of the actions that were taken"),
]
ChunkRowsOption = Annotated[
    int | None,
    AtLeast(1),
    COUNT,
    Doc("bound the memory of an update: forward passes are redone in chunks of so many rows"),
]
PrecisionOption = Annotated[
    Precision,
    Doc("arithmetic of Fisher-vector products; trpo-fast doctor says what this machine serves"),
]
DeterministicOption = Annotated[
    bool, Doc("equal bits from equal inputs; without it some CUDA products are faster")
]
CaptureOption = Annotated[
    bool,
    Doc(
        "on CUDA, in plain PyTorch and for wide nets: updates, acting and the critic's fits are "
        "recorded as CUDA graphs at the second call on the same shapes, and replayed from then on"
    ),
]


class UpdateOptions(TypedDict, total=False):
    """The options that every update function has, with the defaults of ``trpo_fast.Config``."""

    kl_reduction: KlReductionOption
    kl_direction: KlDirectionOption
    constraint: ConstraintOption
    fisher: FisherOption
    fvp_rows: Annotated[
        int | Tensor | None,
        Doc("rows of Fisher-vector products: so many, their indices [M], or by default all"),
    ]
    chunk_rows: ChunkRowsOption
    precision: PrecisionOption
    deterministic: DeterministicOption
    capture: CaptureOption
    group: Annotated[
        ProcessGroup | None,
        Doc(
            "processes of torch.distributed that have rows of the batch each and move the same "
            "policy together, all with these options; None: this process alone"
        ),
    ]


def _descriptions(options: type) -> str:
    """A line for each of ``options``, for its docstring: name and description."""
    hints = get_type_hints(options, include_extras=True)
    notes = {
        name: [n for n in get_args(hint) if isinstance(n, Doc)] for name, hint in hints.items()
    }
    return "\n".join(f"    {name}: {found[0].documentation}" for name, found in notes.items())


UpdateOptions.__doc__ = f"{UpdateOptions.__doc__}\n\n{_descriptions(UpdateOptions)}\n"


@dataclass
class UpdateSettings:
    """The step of the policy: how far, along which direction, and how it is found."""

    max_kl: Annotated[float, Above(0.0), Doc("limit on the KL of an update")] = 0.01
    damping: Annotated[
        float, AtLeast(0.0), Doc("multiple of the identity that is added to the Fisher matrix")
    ] = 0.1
    cg_iterations: Annotated[
        int, AtLeast(1), COUNT, Doc("iterations of conjugate gradient, at most")
    ] = 10
    cg_tol: Annotated[
        float,
        AtLeast(0.0),
        Below(1.0),
        Doc("conjugate gradient stops at a residual of this share of the gradient"),
    ] = 0.0
    cg_gain_tol: Annotated[
        float,
        AtLeast(0.0),
        Below(1.0),
        Doc(
            "conjugate gradient stops after two iterations in a row that each add no more than "
            "this share of what the direction has gained; 0 takes every iteration"
        ),
    ] = 0.0
    preconditioner: Annotated[
        PreconditionerKind | None,
        Doc(
            "kfac: conjugate gradient with K-FAC's factors, made anew for every update, takes "
            "about a third of the iterations"
        ),
    ] = None
    factor_fraction: Annotated[
        float,
        Above(0.0),
        AtMost(1.0),
        Doc("kfac: share of the rows of Fisher-vector products that the factors are made from"),
    ] = 0.25
    backtrack_ratio: Annotated[
        float, Above(0.0), Below(1.0), Doc("line search: each step is so much of the one before")
    ] = 0.8
    backtrack_steps: Annotated[
        int, AtLeast(1), COUNT, Doc("line search: steps that are tried, at most")
    ] = 10
    kl_reduction: KlReductionOption = "sum"
    kl_direction: KlDirectionOption = "forward"
    constraint: ConstraintOption = "mean"
    fisher: FisherOption = "analytic"


@dataclass
class KernelSettings:
    """Which code computes the update, and how."""

    backend: Annotated[
        Backend, Doc("which code computes updates, the critic's fit and acting; auto: the fastest")
    ] = "auto"
    precision: PrecisionOption = "fp32"
    deterministic: DeterministicOption = True
    capture: CaptureOption = True
    chunk_rows: ChunkRowsOption = None


@dataclass
class GradientSettings:
    """Steps of a fixed length: the algorithms npg and pg."""

    npg_learning_rate: Annotated[
        float | None,
        Above(0.0),
        Doc(
            "npg: a fixed step on the natural gradient; without it the step is normalised to max_kl"
        ),
    ] = None
    pg_learning_rate: Annotated[float, Above(0.0), Doc("pg: the step on the gradient")] = 0.1
    pg_max_grad_norm: Annotated[
        float | None, Above(0.0), Doc("pg: gradients longer than this are shortened to it")
    ] = None


@dataclass
class RatSettings:
    """The algorithm rat: a direct solve among the rows."""

    rat_max_rows: Annotated[
        int,
        AtLeast(1),
        COUNT,
        Doc("rat: rows of the direct solve, evenly strided where a batch has more"),
    ] = 2048


@dataclass
class PenaltySettings:
    """The algorithm kl-penalty: surrogate - lambda KL, and how lambda moves."""

    penalty: Annotated[float, Above(0.0), Doc("the first value of lambda")] = 1.0
    penalty_rule: Annotated[
        PenaltyRule,
        Doc("lambda stays; doubles or halves as the KL leaves max_kl; or ascends the dual problem"),
    ] = "adaptive"
    penalty_rate: Annotated[
        float,
        Above(0.0),
        Doc("dual: the rate of ascent on log lambda; 0.5 is Newton's step, more counts as 0.5"),
    ] = 0.5
    penalty_rounds: Annotated[
        int, AtLeast(1), COUNT, Doc("dual: turns of policy and lambda on one batch, at most")
    ] = 10
    penalty_tolerance: Annotated[
        float,
        Above(0.0),
        Doc("dual: the turns end once the KL is within this share of max_kl from it"),
    ] = 0.1
    penalty_min: Annotated[float, Above(0.0), Doc("lambda is never less")] = 1e-6
    penalty_max: Annotated[float, Above(0.0), Doc("lambda is never more")] = 1e6
    penalty_inner: Annotated[
        PenaltyInner, Doc("one step on the natural gradient, or Adam on all rows")
    ] = "natural"
    penalty_adam_steps: Annotated[int, AtLeast(1), COUNT, Doc("adam: steps per update")] = 20
    penalty_learning_rate: Annotated[float, Above(0.0), Doc("adam: the rate of its steps")] = 3e-4
