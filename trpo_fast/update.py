"""The trust-region and natural-gradient updates, and what every update reports.

Each takes a policy and a ``Batch``, moves the policy's parameters in place if the step is
acceptable, and returns an ``UpdateInfo``. A step that is not accepted leaves every bit of the
parameters as it was and says why in ``info.reason``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from . import checks
from .backend import REASONS, STATS, Problem, UpdateConfig, resolve
from .fisher import make_problem
from .policy import mark_written
from .surrogate import Batch

OPTIONS = (
    "kl_reduction",
    "kl_direction",
    "fisher",
    "fvp_rows",
    "chunk_rows",
    "precision",
    "deterministic",
)


@dataclass
class UpdateInfo:
    """What an update did. The numbers stay on the device until the first of them is read.

    >>> info.reason, info.kl, info.surrogate_after - info.surrogate_before
    ('accepted', 0.0098, 0.031)
    """

    backend: str
    stats: Tensor  # [len(STATS)] float64
    _values: dict[str, float] | None = field(default=None, repr=False)

    def _read(self, name: str) -> float:
        if self._values is None:
            self._values = dict(zip(STATS, self.stats.tolist(), strict=True))
        return self._values[name]

    @property
    def reason(self) -> str:
        """accepted, or why no parameter moved:

        bad_values           the batch holds what no update can use
        zero_gradient        there is nothing to gain
        non_finite           the gradient, the solution or the only step tried is NaN or infinite
        negative_curvature   p'Fp <= 0 in the first iteration of CG
        line_search_failed   no step tried was within the limits and better
        """
        return REASONS[int(self._read("reason"))]

    @property
    def accepted(self) -> bool:
        return self.reason == "accepted"

    @property
    def kl(self) -> float:
        """Mean KL between the old policy and the new, in the reduction and direction asked for."""
        return self._read("kl")

    @property
    def max_state_kl(self) -> float:
        return self._read("max_state_kl")

    @property
    def surrogate_before(self) -> float:
        return self._read("surrogate_before")

    @property
    def surrogate_after(self) -> float:
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
        return int(self._read("backtracks"))

    @property
    def quad(self) -> float:
        """x'Ax of the search direction."""
        return self._read("quad")

    @property
    def cg_residual(self) -> float:
        return self._read("cg_residual")

    @property
    def cg_iterations(self) -> int:
        return int(self._read("cg_iterations"))

    @property
    def gradient_norm(self) -> float:
        return self._read("gradient_norm")

    def forget(self) -> None:
        """Have the next number read from the device again: after the replay of a CUDA graph that
        captured the update.
        """
        self._values = None

    def as_dict(self) -> dict[str, float | str]:
        """Every number by name, for a logger."""
        numbers: dict[str, float | str] = {name: self._read(name) for name in STATS[1:]}
        return {"reason": self.reason, "backend": self.backend, **numbers}


def trpo_update(
    policy: nn.Module,
    batch: Batch,
    *,
    max_kl: float = 0.01,
    damping: float = 0.1,
    cg_iterations: int = 10,
    cg_tol: float = 0.0,
    backtrack_ratio: float = 0.8,
    backtrack_steps: int = 10,
    sync: bool = True,
    backend: str = "auto",
    **options: Any,
) -> UpdateInfo:
    """Maximise the surrogate subject to mean KL <= max_kl: x = (F + damping I)^-1 g by CG, then a
    line search.

    theta <- theta + c^j sqrt(2 max_kl / x'(F + damping I)x) x for the first j < backtrack_steps
    that keeps the KL within max_kl and improves the surrogate. ``sync=False`` returns without
    waiting for the device. Options: kl_reduction, kl_direction, fisher, fvp_rows, chunk_rows,
    precision, deterministic, as for ``FisherOperator``.
    """
    config = checks.check_search(max_kl, cg_iterations, cg_tol, backtrack_ratio, backtrack_steps)
    return _natural_update(policy, batch, config, damping, sync, backend, options)


def npg_update(
    policy: nn.Module,
    batch: Batch,
    *,
    learning_rate: float | None = None,
    max_kl: float = 0.01,
    damping: float = 0.1,
    cg_iterations: int = 10,
    cg_tol: float = 0.0,
    sync: bool = True,
    backend: str = "auto",
    **options: Any,
) -> UpdateInfo:
    """Natural policy gradient: theta <- theta + learning_rate x, or the KL-normalised sqrt(2 max_kl
    / x'Ax) x without one.

    No line search: the step is taken if it, its KL and its surrogate are finite (else
    ``non_finite``).
    """
    if learning_rate is not None:
        learning_rate = checks.check_number("learning_rate", learning_rate, above=0.0)
    config = UpdateConfig(
        max_kl=checks.check_number("max_kl", max_kl, above=0.0),
        cg_iterations=checks.check_count("cg_iterations", cg_iterations),
        cg_tol=checks.check_number("cg_tol", cg_tol, least=0.0, below=1.0),
        search=False,
        learning_rate=learning_rate,
    )
    return _natural_update(policy, batch, config, damping, sync, backend, options)


def _natural_update(
    policy: nn.Module,
    batch: Batch,
    config: UpdateConfig,
    damping: float,
    sync: bool,
    backend: str,
    options: dict[str, Any],
) -> UpdateInfo:
    problem = update_problem(policy, batch, damping, options, sync)
    chosen = resolve(backend, problem)
    try:
        stats = chosen.operator(problem).update(config)
    finally:  # Ctrl-C may come right after the write
        mark_written(problem.policy)
    return finish(problem, UpdateInfo(chosen.name, stats), sync)


def update_problem(
    policy: nn.Module, batch: Batch, damping: float, options: dict[str, Any], sync: bool
) -> Problem:
    for name in options:
        if name not in OPTIONS:
            raise TypeError(f"{name}: expected one of the options {OPTIONS}, got an unknown name")
    policy, theta = checks.check_policy(policy)
    return make_problem(
        policy,
        checks.check_batch(policy, theta, batch),
        theta=theta,
        damping=damping,
        sync=sync,
        **options,
    )


def finish(problem: Problem, info: UpdateInfo, sync: bool) -> UpdateInfo:
    """With ``sync``, read the reason and turn unusable values into an error that names the
    argument.
    """
    if sync and info.reason in ("bad_values", "non_finite"):
        checks.raise_for_values(problem)
    return info
