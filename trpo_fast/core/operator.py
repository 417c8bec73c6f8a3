"""An operator: a problem at one theta, with a method for each stage.

``Operator.update`` composes the stages; a backend that fuses them overrides it.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .._base.arguments import check_tensor
from .cg import CgResult, cg
from .preconditioner import factor_stride
from .problem import REASONS, STATS, CgConfig, Problem, UpdateConfig
from .reference import line_search, step
from .surrogate import Measures


class Operator(abc.ABC):
    """A problem at one theta. Vectors are [P], or [K, P] for several right-hand sides."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.theta = problem.theta.clone()

    @abc.abstractmethod
    def fvp(self, v: Tensor) -> Tensor:
        """F v + damping v."""

    @abc.abstractmethod
    def gradient(self) -> tuple[Tensor, Measures]:
        """Gradient of the surrogate at theta [P], and the evaluation there."""

    @abc.abstractmethod
    def evaluate(self, theta: Tensor) -> Measures:
        """KL, surrogate and entropy of the policy with parameters theta [P]."""

    @abc.abstractmethod
    def bad_values(self) -> Tensor:
        """0-d bool: the rows hold a value no update can use (NaN, negative weight, empty mask,
        ...).
        """

    @property
    @abc.abstractmethod
    def scratch_bytes(self) -> int:
        """Memory held for the products, inputs not counted."""

    def summed(self, share: Callable[[], Tensor]) -> Tensor:
        """A weighted mean over all rows, such as theta, of which ``share`` gives that over this
        process's rows.
        """
        return share()

    def agreed(self, like: Tensor, run: Callable[[], Tensor]) -> Tensor:
        """What code of the caller's returns, shaped as ``like``: on all ranks rank 0's."""
        return run()

    def raise_failure(self) -> None:
        """Before anything is written: raise what a process of several has met."""
        return None

    def stride(self, config: CgConfig) -> int:
        """Of how many of the product's rows one goes into the factors; 0 where there are none."""
        if config.preconditioner != "kfac":
            return 0
        return factor_stride(self._fisher_rows(), config.fraction)

    def factor_rows(self, config: CgConfig) -> int:
        """How many rows go into the factors."""
        stride = self.stride(config)
        return -(-self._fisher_rows() // stride) if stride else 0

    def _fisher_rows(self) -> int:
        chosen, share = self.problem.fvp_rows, self.problem.share
        if share is not None:
            return share.fisher_rows
        return len(self.problem.batch) if chosen is None else chosen.numel()

    def solve(self, g: Tensor, config: CgConfig) -> CgResult:
        """Conjugate gradient on (F + damping I) x = g, plain or with a callable preconditioner."""
        apply = config.preconditioner
        assert apply != "kfac"
        if apply is None:
            return self.cg(g, config, None)
        own = _of_rows(apply)
        return self.cg(g, config, lambda r: self.agreed(r, lambda: own(r)))

    def cg(self, g: Tensor, config: CgConfig, apply: Callable[[Tensor], Tensor] | None) -> CgResult:
        """Conjugate gradient on this operator's products."""
        return cg(self.fvp, g, config.iterations, config.tol, config.gain_tol, apply)

    def update(self, config: UpdateConfig) -> Tensor:
        """One natural-gradient update; writes ``problem.theta`` if accepted, returns the statistics
        [len(STATS)].
        """
        g, before = self.gradient()
        solution = self.solve(g, config.cg)
        scale, at_limit = self.first_trial(config, solution.quad, before)
        scale = scale.to(g.dtype)

        def evaluate(theta: Tensor) -> tuple[Tensor, Tensor]:
            evaluation = self.evaluate(theta)
            return self.limited(config, evaluation), evaluation.surrogate

        ratio, steps = config.backtrack_ratio, config.backtrack_steps
        j, candidate, found = line_search(
            evaluate,
            self.theta,
            scale * solution.x,
            max_kl=config.max_kl if config.search else float("inf"),
            before=before.surrogate
            if config.search
            else torch.full_like(before.surrogate, -float("inf")),
            ratio=ratio,
            steps=steps if config.search else 1,
        )
        failed = "line_search_failed" if config.search else "non_finite"
        lost = ~torch.isfinite(before.kl)
        ends = (("non_finite", lost), ("at_kl_limit", at_limit), (failed, ~found))
        reason = self._reason(g, solution, *ends)
        accepted = reason == REASONS.index("accepted")
        theta = torch.where(accepted, candidate, self.theta)
        after = self.evaluate(theta)
        self.raise_failure()
        self.problem.theta.copy_(theta)
        step_size = torch.where(accepted, scale.double() * ratio ** j.double(), 0.0)
        values: Mapping[str, Tensor] = {
            "reason": reason,
            "kl": after.kl,
            "max_state_kl": after.max_kl,
            "surrogate_before": before.surrogate,
            "surrogate_after": after.surrogate,
            "entropy": after.entropy,
            "step_size": step_size,
            "backtracks": j,
            "gradient_norm": g.double().norm(),
            **solution.statistics(),
        }
        return torch.stack([values[name].double() for name in STATS])

    def first_trial(
        self, config: UpdateConfig, quad: Tensor, before: Measures
    ) -> tuple[Tensor, Tensor]:
        """The factor on x that is tried first, and whether the call has used up its limit."""
        free = torch.zeros_like(quad, dtype=torch.bool)
        if config.learning_rate is not None:
            return torch.full_like(quad, config.learning_rate), free
        if self.problem.batch.old_params is None:
            return step(quad, config.max_kl), free
        at_limit = self.limited(config, before) >= config.max_kl
        return torch.where(at_limit, 0.0, step(quad, config.max_kl, before.kl)), at_limit

    def limited(self, config: UpdateConfig, measured: Measures) -> Tensor:
        """The KL that max_kl limits."""
        largest = config.search and self.problem.constraint == "max"
        return measured.max_kl if largest else measured.kl

    def _reason(self, g: Tensor, solution: CgResult, *ends: tuple[str, Tensor]) -> Tensor:
        """Index into REASONS; the first that applies, worst first, then ``ends``."""
        curvature = solution.first_curvature
        finite = (
            torch.isfinite(g).all() & torch.isfinite(solution.x).all() & torch.isfinite(curvature)
        )
        conditions = (
            ("bad_values", self.bad_values()),
            ("non_finite", ~finite),
            ("zero_gradient", (g == 0).all()),
            ("negative_curvature", curvature <= 0),
            *ends,
        )
        reason = torch.zeros((), dtype=torch.int64, device=g.device)
        for name, applies in reversed(conditions):
            reason = torch.where(applies, REASONS.index(name), reason)
        return reason


def columns_last(result: Tensor) -> Tensor:
    """[P], or [K, P] as the columns [P, K]; and back."""
    return result.T if result.ndim == 2 else result


def _of_rows(apply: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A user's M^-1 of [P] or [P, K] for the [P] or [K, P] inside; it may write what it gets."""

    def applied(r: Tensor) -> Tensor:
        given = columns_last(r)
        z = apply(given.clone())
        return columns_last(check_tensor("preconditioner", z, r, tuple(given.shape)))

    return applied
