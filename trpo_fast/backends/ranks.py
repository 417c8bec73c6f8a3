"""An operator whose rows lie on several processes: each rank's own operator computes the share of
its rows, and what the update sees are sums over ranks.

With W_r the weight of rank r's rows and W that of all, a weighted mean over all rows is
sum_r W_r / W times the mean over r's rows: gradient, J' M J v, KL, surrogate and entropy come that
way from operators that know nothing of ranks. Damping is added once, after the sum. K-FAC's factors
are sums over the rows that one process would pick. Every branch sees sums, so that all ranks take
the same.

Where a rank fails it takes part in what remains of the call with NaN, which nothing accepts, and
all ranks raise its error at the end (``raise_failure``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .._base.guards import outside_autocast
from .._base.ranks import Ranks, Together
from .._base.reads import may_read
from ..core.bad_values import found
from ..core.batch import total_weight
from ..core.cg import CgResult
from ..core.checks import judged
from ..core.modules import Refused
from ..core.operator import Operator
from ..core.preconditioner import Factors, Preconditioner, picked_rows
from ..core.problem import CgConfig, Problem
from ..core.sequences import rows_of
from ..core.surrogate import Measures
from .base import Backend
from .reference import ReferenceOperator
from .support import SERVES, Support


class RankOperator(Operator):
    """Sums over ranks of what each one's own operator gives."""

    def __init__(self, problem: Problem, resolved: Callable[[Problem], Backend]) -> None:
        super().__init__(problem)
        assert problem.share is not None
        self._share, self._ranks = problem.share, problem.share.ranks
        self._together = Together(self._ranks)
        self._bad: Tensor | None = None
        self._last: tuple[Tensor, Measures] | None = None
        # Of rows that have no weight nothing is computed.
        chosen = problem.fvp_rows if self._share.fisher_own > 0.0 else None
        self._own = replace(problem, theta=self.theta, damping=0.0, fvp_rows=chosen, share=None)
        self.backend = ""
        self._operator: Operator | None = None
        self._together.attempt(lambda: self._make(resolved))

    def _make(self, resolved: Callable[[Problem], Backend]) -> None:
        backend = resolved(self._own)
        self._operator = backend.operator(self._own) if self._share.own > 0.0 else None
        self.backend = backend.name

    def raise_failure(self) -> None:
        self._together.raise_failure()

    @staticmethod
    def _part(own: float, total: float) -> float:
        return own / total if own > 0.0 else 0.0

    def summed(self, share: Callable[[], Tensor]) -> Tensor:
        part = self._part(self._share.own, self._share.total)
        return self._together.sum(part, self.theta, share)

    def agreed(self, like: Tensor, run: Callable[[], Tensor]) -> Tensor:
        found = self._together.attempt(run)
        if found is None:
            return self._ranks.sum(torch.full_like(like, float("nan")))
        return self._ranks.sum(found if self._ranks.rank == 0 else torch.zeros_like(like))

    def fvp(self, v: Tensor) -> Tensor:
        part = self._part(self._share.fisher_own, self._share.fisher_total)
        total = self._together.sum(part, v, lambda: self._local.fvp(v))
        return total + self.problem.damping * v

    @property
    def _local(self) -> Operator:
        assert self._operator is not None
        return self._operator

    def gradient(self) -> tuple[Tensor, Measures]:
        measured: list[Measures] = []

        def run() -> Tensor:
            g, before = self._local.gradient()
            measured.append(before)
            return g

        g = self.summed(run)
        return g, self._measures(lambda: measured[0], self._bad_here())

    def evaluate(self, theta: Tensor) -> Measures:
        last = self._last  # the step that is taken is the one that was tried last
        if last is not None and may_read(theta.device) and torch.equal(theta, last[0]):
            return last[1]
        measured = self._measures(lambda: self._local.evaluate(theta))
        self._last = theta.clone(), measured
        return measured

    def _measures(self, run: Callable[[], Measures], *bad: Tensor | None) -> Measures:
        """Sums of KL, surrogate and entropy and the largest KL; and of a flag whether it is up
        anywhere.
        """
        part = self._part(self._share.own, self._share.total)
        mine = self.theta.new_zeros(5, dtype=torch.float64)
        mine[1] = -float("inf")
        if part > 0.0 or self._together.failure is not None:
            found = self._together.attempt(run)
            if found is None:
                mine.fill_(float("nan"))
            else:
                shares = (found.kl, found.surrogate, found.entropy)
                kl, value, entropy = (part * share.double() for share in shares)
                mine[:4] = torch.stack([kl, found.max_kl.double(), value, entropy])
        mine[4] = 0.0
        for flag in bad:
            mine[4] = 0.0 if flag is None else flag.double()
        table = self._ranks.gather(mine)
        if bad:
            self._bad = table[:, 4].sum() > 0
        kl, _, value, entropy, _ = table.sum(0)
        return Measures(kl, table[:, 1].amax(), value, entropy)

    @outside_autocast
    def _bad_here(self) -> Tensor | None:
        """Whether this rank's rows hold what no update can use, 0-d."""
        known, all_given = self._operator, self._own.fvp_rows is self.problem.fvp_rows
        if known is not None and all_given:
            return self._together.attempt(known.bad_values)
        return self._together.attempt(lambda: found(judged(self.problem)))

    def bad_values(self) -> Tensor:
        if self._bad is None:
            flag = self._bad_here()
            mine = torch.zeros_like(self.theta[:1]) if flag is None else flag.to(self.theta).view(1)
            self._bad = self._ranks.sum(mine)[0] > 0
        return self._bad

    @outside_autocast
    def solve(self, g: Tensor, config: CgConfig) -> CgResult:
        if config.preconditioner != "kfac":
            return super().solve(g, config)
        apply = self._kfac(self.stride(config))
        solved = self.cg(g, config, apply)
        return solved._replace(factor_rows=apply.rows, scaled_blocks=apply.scaled_blocks)

    def _kfac(self, stride: int) -> Preconditioner:
        """K-FAC from the rows that one process with all rows would pick."""
        found = self._factors_of(stride) or self._factors_of(1)
        if found is None:
            raise Refused("a module takes its rows only together, and not those of a rank")
        factors, rows = found
        return Preconditioner(
            self.theta,
            factors,
            damping=self.problem.damping,
            kl_scale=self.problem.kl_scale,
            rows=rows,
        )

    def _factors_of(self, stride: int) -> tuple[Factors, int] | None:
        """Factors summed over ranks and the number of their rows; nothing where a module on some
        rank takes its rows only together.
        """
        picked, numbers = self._picked(stride)

        def make() -> tuple[Factors, float] | None:
            if self._together.failure is not None:
                raise self._together.failure
            try:
                return self._own_factors(picked, numbers)
            except Refused:
                return None

        made, table = self._ranks.together(
            make, lambda f: (float(f is None), picked.numel(), 0.0 if f is None else f[1])
        )
        if made is None or any(row[0] for row in table):
            return None
        total = sum(row[2] for row in table)
        return _summed(self._ranks, made[0], total), int(sum(row[1] for row in table))

    def _picked(self, stride: int) -> tuple[Tensor, Tensor]:
        """Which rows of this rank's products go into the factors, and their numbers among all."""
        share, batch, chosen = self._share, self.problem.batch, self.problem.fvp_rows
        length, device = batch.sequence_length or 1, self.theta.device
        rows = rows_of(picked_rows(share.fisher_rows // length, stride, device), length)
        here = share.here if chosen is None else chosen.numel()
        rows = rows[(rows >= share.fisher_first) & (rows < share.fisher_first + here)]
        rows = rows - share.fisher_first
        return rows, share.first + (rows if chosen is None else chosen[rows])

    def _own_factors(self, picked: Tensor, numbers: Tensor) -> tuple[Factors, float]:
        """The factors of some of this rank's rows, sums by weight, and their weight."""
        known = self._operator
        reference = known if isinstance(known, ReferenceOperator) else ReferenceOperator(self._own)
        one = torch.ones_like(self.theta[0])
        if picked.numel() and self._share.fisher_own > 0.0:
            part = reference.fisher_part(picked)
            return reference.factors_of(part, numbers, one), float(total_weight(part, one.dtype))
        every = torch.arange(len(reference.batch), device=self.theta.device)  # for their shapes
        part = reference.batch.rows(every)
        return _scaled(reference.factors_of(part, every, one), None), 0.0

    def dense(self) -> Tensor:
        """F + damping I [P, P], float64."""
        from ..core.oracle import dense_fisher

        part = self._part(self._share.fisher_own, self._share.fisher_total)
        unit = torch.eye(self.theta.numel(), dtype=torch.float64, device=self.theta.device)
        total = self._together.sum(part, unit, lambda: dense_fisher(self._own))
        return total + self.problem.damping * unit

    @property
    def scratch_bytes(self) -> int:
        return 0 if self._operator is None else self._operator.scratch_bytes


def _scaled(factors: Factors, total: float | None) -> Factors:
    """Means from sums over rows of so much weight; zeros without one."""

    def scaled(sums: Tensor, by: float) -> Tensor:
        return torch.zeros_like(sums) if total is None else sums / by

    by = total if total else float("nan")  # without any weight there is no mean
    maps = [
        replace(m, inputs=scaled(m.inputs, by), outputs=scaled(m.outputs, by)) for m in factors.maps
    ]
    root = None if factors.root is None else scaled(factors.root, by**0.5)
    return replace(factors, maps=maps, root=root)


def _summed(ranks: Ranks, factors: Factors, total: float) -> Factors:
    """The means over all ranks' rows, of ``total`` weight, of this rank's sums."""
    held = [part for pair in factors.maps for part in (pair.inputs, pair.outputs)]
    held += [] if factors.root is None else [factors.root]
    summed = ranks.sum(torch.cat([part.reshape(-1) for part in held]))
    parts = summed.split([part.numel() for part in held])
    shaped = [new.view_as(old) for new, old in zip(parts, held, strict=True)]
    maps = [
        replace(pair, inputs=shaped[2 * i], outputs=shaped[2 * i + 1])
        for i, pair in enumerate(factors.maps)
    ]
    root = None if factors.root is None else shaped[-1]
    return _scaled(replace(factors, maps=maps, root=root), total)


class RankBackend(Backend):
    """What each rank's own backend gives, summed. Which that is shows with the first operator."""

    def __init__(self, asked: str, resolved: Callable[[Problem], Backend]) -> None:
        self.name, self._resolved = asked, resolved

    def problem_support(self, problem: Problem) -> Support:
        return SERVES

    def operator(self, problem: Problem) -> Operator:
        made = RankOperator(problem, self._resolved)
        self.name = made.backend or self.name
        return made
