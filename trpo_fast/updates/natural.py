"""The trust-region and natural-gradient updates, and what every update reports.

Each takes a policy and a ``Batch``, moves the policy's parameters in place if the step is
acceptable, and returns an ``UpdateInfo``. A step that is not accepted leaves every bit of the
parameters as it was and says why in ``info.reason``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from typing_extensions import Unpack

from .._base.choices import Backend
from .._base.options import GradientSettings, KernelSettings, UpdateOptions, UpdateSettings
from .._base.settings import declared
from ..core import checks
from ..core.problem import REASONS, STATS, Problem, UpdateConfig, resolve
from ..core.surrogate import Batch
from ..policy.net import mark_written
from .operator import make_problem

OPTIONS = tuple(UpdateOptions.__annotations__)
GRADIENT = declared(GradientSettings)


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
        """Whether the parameters moved."""
        return self.reason == "accepted"

    @property
    def kl(self) -> float:
        """Mean KL between the policy before this call and the one after it, in the reduction and
        direction asked for. Of several updates on one batch, each counts from where it began.
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
        """|g - A x| where CG stopped."""
        return self._read("cg_residual")

    @property
    def cg_iterations(self) -> int:
        """Iterations of CG that moved x."""
        return int(self._read("cg_iterations"))

    @property
    def gradient_norm(self) -> float:
        """|g|, of the surrogate's gradient."""
        return self._read("gradient_norm")

    def __repr__(self) -> str:
        """Every number; waits for the device unless one was read before."""
        numbers = ", ".join(f"{name}={self._read(name):.6g}" for name in STATS[1:])
        return f"UpdateInfo({self.reason}, backend={self.backend!r}, {numbers})"

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
    max_kl: float = UpdateSettings.max_kl,
    damping: float = UpdateSettings.damping,
    cg_iterations: int = UpdateSettings.cg_iterations,
    cg_tol: float = UpdateSettings.cg_tol,
    backtrack_ratio: float = UpdateSettings.backtrack_ratio,
    backtrack_steps: int = UpdateSettings.backtrack_steps,
    sync: bool = True,
    backend: Backend = KernelSettings.backend,
    **options: Unpack[UpdateOptions],
) -> UpdateInfo:
    """Maximise the surrogate subject to mean KL <= max_kl: x = (F + damping I)^-1 g by CG, then a
    line search.

    theta <- theta + c^j sqrt(2 max_kl / x'(F + damping I)x) x for the first j < backtrack_steps
    that keeps the KL within max_kl and improves the surrogate. With damping the full step's KL is
    below max_kl, about x'Fx / x'(F + damping I)x of it. ``sync=False`` returns without waiting for
    the device. ``options`` are those of ``trpo_fast.UpdateOptions``, which says what each
    is; their defaults, here and everywhere, are ``Config``'s.
    """
    config = checks.check_search(
        max_kl=max_kl,
        cg_iterations=cg_iterations,
        cg_tol=cg_tol,
        backtrack_ratio=backtrack_ratio,
        backtrack_steps=backtrack_steps,
    )
    return _natural_update(policy, batch, config, damping, sync, backend, options)


def npg_update(
    policy: nn.Module,
    batch: Batch,
    *,
    learning_rate: float | None = GradientSettings.npg_learning_rate,
    max_kl: float = UpdateSettings.max_kl,
    damping: float = UpdateSettings.damping,
    cg_iterations: int = UpdateSettings.cg_iterations,
    cg_tol: float = UpdateSettings.cg_tol,
    sync: bool = True,
    backend: Backend = KernelSettings.backend,
    **options: Unpack[UpdateOptions],
) -> UpdateInfo:
    """Natural policy gradient, x = (F + damping I)^-1 g by CG: theta <- theta + learning_rate x, or
    without a rate theta + sqrt(2 max_kl / x'(F + damping I)x) x.

    No line search: the step is taken if it, its KL and its surrogate are finite (else
    ``non_finite``). Options as for ``trpo_update``.
    """
    config = UpdateConfig(
        max_kl=checks.UPDATE["max_kl"].check(max_kl),
        cg_iterations=checks.UPDATE["cg_iterations"].check(cg_iterations),
        cg_tol=checks.UPDATE["cg_tol"].check(cg_tol),
        search=False,
        learning_rate=GRADIENT["npg_learning_rate"].check(learning_rate, "learning_rate"),
    )
    return _natural_update(policy, batch, config, damping, sync, backend, options)


def _natural_update(
    policy: nn.Module,
    batch: Batch,
    config: UpdateConfig,
    damping: float,
    sync: bool,
    backend: Backend,
    options: UpdateOptions,
) -> UpdateInfo:
    problem = update_problem(policy, batch, damping, options, sync)
    chosen = resolve(backend, problem)
    try:
        stats = chosen.operator(problem).update(config)
    finally:  # Ctrl-C may come right after the write
        mark_written(problem.policy)
    return finish(problem, UpdateInfo(chosen.name, stats), sync)


def update_problem(
    policy: nn.Module, batch: Batch, damping: float, options: UpdateOptions, sync: bool
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
