"""``backend="reference"``: the stages of core/reference.py over the rows of a problem, whole or
chunk by chunk.

``MLPPolicy`` goes through the hand-written stages; any other module that returns a distribution
goes through autograd's graph of it (module.py) with the same metrics, so the two share everything
in this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from .._base.arguments import fail
from .._base.guards import outside_autocast
from .._base.reads import may_read
from ..core.bad_values import Judged, found
from ..core.batch import Batch, normalised_weights, total_weight
from ..core.cg import CgResult
from ..core.modules import InvalidDistribution, ModuleFunction, Refused
from ..core.operator import Operator
from ..core.preconditioner import Factors, Preconditioner, picked_rows, signs
from ..core.problem import CgConfig, Problem
from ..core.sequences import rows_of
from ..core.surrogate import Measures, evaluate_rows, surrogate
from ..policy.heads import Head, TakenActions, without_head
from ..policy.net import MLPPolicy
from ..policy.recurrent import RecurrentPolicy
from .base import Backend
from .linearization import Linearization, MLPLinearization
from .module import ModuleLinearization
from .recurrent import RecurrentLinearization, RecurrentModel
from .support import SERVES, Support


class ReferenceOperator(Operator):
    """Stages over chunks of rows; without ``chunk_rows`` there is one chunk and its forward runs
    once.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.batch = problem.batch.without_padding()
        self.total = total_weight(self.batch, self.theta.dtype)
        self._sequences = RecurrentModel(problem.policy) if _by_hand(problem.policy) else None
        self._chunked = problem.chunk_rows is not None
        self.module = self._as_module(problem.policy)
        # Once: the stages' own derivatives agree, and a device is not waited for.
        by_torch = self.module is not None and self._sequences is None
        self._compare = by_torch and may_read(self.theta.device)
        self._cached: Linearization | None = None
        self._fisher_batch, self._fisher_total = self.batch, self.total
        self._fisher_cached: Linearization | None = None
        if problem.fvp_rows is not None:
            self._fisher_batch = problem.of_fvp_rows(self.batch)
            self._fisher_total = total_weight(self._fisher_batch, self.theta.dtype)
        self._look()

    def _as_module(self, policy: nn.Module) -> ModuleFunction | None:
        """The policy as a module, where the stages are not for it."""
        if isinstance(policy, MLPPolicy) and not policy.departure():
            return None
        return ModuleFunction(policy, next(self._split(self.batch)))

    @outside_autocast
    def _look(self) -> None:
        """Run a module: what keeps it from being a policy shows before anything is computed."""
        if self.module is None:
            return
        if not self._chunked:
            next(self._fisher_chunks())
        head = self.module.head
        if isinstance(head, TakenActions) and self.problem.fisher != "empirical":
            raise without_head(f"{head.found!r} (fisher='empirical' takes any)")

    def linearize(self, theta: Tensor, batch: Batch) -> Linearization:
        policy = self.problem.policy
        if self.module is None:
            assert isinstance(policy, MLPPolicy)
            return MLPLinearization(policy.spec, policy.head, theta, batch)
        if self._sequences is not None:
            return RecurrentLinearization(self._sequences, theta, batch)
        return ModuleLinearization(self.module, theta, batch)

    def _chunks(self) -> Iterator[tuple[Batch, Linearization]]:
        """Pieces of the whole batch, linearized at theta."""
        if not self._chunked:
            if self._cached is None:
                self._cached = self.linearize(self.theta, self.batch)
            yield self.batch, self._cached
            return
        for piece in self._split(self.batch):
            yield piece, self.linearize(self.theta, piece)

    def _fisher_chunks(self) -> Iterator[tuple[Batch, Linearization]]:
        """Pieces of the rows that Fisher-vector products see, linearized at theta."""
        if self.problem.fvp_rows is None:
            yield from self._chunks()
        elif not self._chunked:
            if self._fisher_cached is None:
                self._fisher_cached = self.linearize(self.theta, self._fisher_batch)
            yield self._fisher_batch, self._fisher_cached
        else:
            for piece in self._split(self._fisher_batch):
                yield piece, self.linearize(self.theta, piece)

    def _split(self, batch: Batch) -> Iterator[Batch]:
        return batch.chunks(self.problem.chunk_rows)

    @outside_autocast
    def fvp(self, v: Tensor) -> Tensor:
        total = self.problem.damping * v
        for batch, lin in self._fisher_chunks():
            tangent = lin.jvp(v)
            weights = normalised_weights(batch, self._fisher_total)
            delta = self._metric(batch, lin, tangent)
            delta = self.problem.kl_scale * weights.unsqueeze(-1) * delta
            pulled = lin.vjp(delta)
            if self._compare:
                self._check_derivatives((tangent * delta).sum((-2, -1)), v, pulled)
                self._compare = False
            total = total + pulled
        return total

    def _check_derivatives(self, quad: Tensor, v: Tensor, pulled: Tensor) -> None:
        """Whether (J v)' delta, which is ``quad``, equals v' (J' delta) up to rounding, for a
        module whose way back may be changed by hooks and Functions.
        """
        other = (v * pulled).sum(-1)
        slack = 0.01 * quad.abs() + 1e-5 * v.norm(dim=-1) * pulled.norm(dim=-1)
        if bool(((quad - other).abs() > slack).any()):
            raise fail(
                "policy",
                "modules whose way back is linear, the transposed of their derivative (no hook or "
                "autograd.Function that changes gradients)",
                f"v'Fv of {quad.tolist()} and {other.tolist()}",
            )

    def _metric(self, batch: Batch, lin: Linearization, tangent: Tensor) -> Tensor:
        if self.problem.fisher == "analytic":
            return lin.metric(tangent)
        assert batch.actions is not None
        score = lin.head.score(lin.params, batch.actions)
        return score * (score * tangent).sum(-1, keepdim=True)

    def solve(self, g: Tensor, config: CgConfig) -> CgResult:
        if config.preconditioner != "kfac":
            return super().solve(g, config)
        apply = self.kfac(self.stride(config))
        found = self.cg(g, config, apply)
        return found._replace(factor_rows=apply.rows, scaled_blocks=apply.scaled_blocks)

    @outside_autocast
    def kfac(self, stride: int) -> Preconditioner:
        """The factors of one of ``stride`` rows that products see, and their inverses."""
        rows, given = self._fisher_batch, self.problem.fvp_rows
        length = rows.sequence_length or 1
        picked = picked_rows(len(rows) // length, stride, self.theta.device)
        picked = rows_of(picked, length)
        try:
            return self._kfac(picked, picked if given is None else given[picked])
        except Refused:  # a module that takes its rows only together
            every = picked_rows(len(rows), 1, self.theta.device)
            return self._kfac(every, every if given is None else given)

    def _kfac(self, picked: Tensor, numbers: Tensor) -> Preconditioner:
        """Factors of the rows ``picked`` among those of products; their numbers in the batch."""
        part = self.fisher_part(picked)
        return Preconditioner(
            self.theta,
            self.factors_of(part, numbers, total_weight(part, self.theta.dtype)),
            damping=self.problem.damping,
            kl_scale=self.problem.kl_scale,
            rows=len(part),
        )

    def fisher_part(self, picked: Tensor) -> Batch:
        """Some of the rows that products see."""
        return replace(self._fisher_batch.rows(picked), group_size=None)

    def factors_of(self, part: Batch, numbers: Tensor, total: Tensor) -> Factors:
        """The factors of such rows, of these numbers [N] in the batch, their weights over total."""
        size = -(-(self.problem.chunk_rows or len(part)) // part.unit) * part.unit
        found: Factors | None = None
        for start in range(0, len(part), size):
            rows = slice(start, start + size)
            piece = part.rows(rows)
            lin = self.linearize(self.theta, piece)
            added = lin.factors(
                self._scores(piece, lin, numbers[rows]), normalised_weights(piece, total)
            )
            found = added if found is None else found + added
        assert found is not None
        return found

    def _scores(self, batch: Batch, lin: Linearization, numbers: Tensor) -> Tensor:
        """Vectors [N, D] whose outer products average to the rows' Fisher information."""
        if self.problem.fisher == "empirical":
            assert batch.actions is not None
            return lin.head.score(lin.params, batch.actions)
        xi = signs(numbers, lin.params.shape[-1], lin.params.dtype)
        return lin.head.metric_root(lin.params, xi)

    @outside_autocast
    def gradient(self) -> tuple[Tensor, Measures]:
        g = torch.zeros_like(self.theta)
        parts = []
        for batch, lin in self._chunks():
            assert batch.actions is not None
            _, slope = surrogate(lin.head, batch, lin.params, lin.params, self.total)
            g = g + lin.vjp(slope.unsqueeze(-1) * lin.head.score(lin.params, batch.actions))
            parts.append(self._evaluate_rows(lin.head, batch, lin.params, lin.params))
        return g, _combine(parts)

    @outside_autocast
    def evaluate(self, theta: Tensor) -> Measures:
        parts = []
        for batch in self._split(self.batch):
            head, old = self._known_params(batch)
            try:
                params = self._params(theta, batch)[1]
            except InvalidDistribution:  # as NaN is where distributions do not look
                params = torch.full_like(old, float("nan"))
            parts.append(self._evaluate_rows(head, batch, old, params))
        return _combine(parts)

    def _known_params(self, batch: Batch) -> tuple[Head, Tensor]:
        """The head and distribution parameters [N, D] at theta, of a piece of the batch."""
        if self._chunked:
            return self._params(self.theta, batch)
        _, lin = next(self._chunks())
        return lin.head, lin.params

    @torch.no_grad()
    def _params(self, theta: Tensor, batch: Batch) -> tuple[Head, Tensor]:
        """The head and distribution parameters [N, D], of which no derivative is wanted."""
        if self.module is not None:
            return self.module.on(batch)(theta)
        lin = self.linearize(theta, batch)
        return lin.head, lin.params

    def _evaluate_rows(self, head: Head, batch: Batch, old: Tensor, new: Tensor) -> Measures:
        kl_scale, reverse = self.problem.kl_scale, self.problem.reverse_kl
        return evaluate_rows(
            head, batch, old, new, self.total, kl_scale=kl_scale, reverse_kl=reverse
        )

    @outside_autocast
    def bad_values(self) -> Tensor:
        policy = self.problem.policy
        head = policy.head if self.module is None else self.module.head
        assert isinstance(head, Head)
        return found(
            Judged(head, self.problem.batch, self.batch, self.problem.fvp_rows, policy=policy)
        )

    @property
    def scratch_bytes(self) -> int:
        held = [lin for lin in (self._cached, self._fisher_cached) if lin is not None]
        return sum(lin.nbytes() for lin in held)


def _combine(parts: list[Measures]) -> Measures:
    """The chunks' shares of one evaluation."""
    first, *rest = parts
    for part in rest:
        first = Measures(
            first.kl + part.kl,
            torch.maximum(first.max_kl, part.max_kl),
            first.surrogate + part.surrogate,
            first.entropy + part.entropy,
        )
    return first


def _by_hand(policy: nn.Module) -> bool:
    return isinstance(policy, RecurrentPolicy) and not policy.departure()


class ReferenceBackend(Backend):
    """Plain PyTorch, any module, any device, float32 or float64."""

    name = "reference"

    def records(self, problem: Problem) -> bool:
        return True

    def problem_support(self, problem: Problem) -> Support:
        return SERVES

    def operator(self, problem: Problem) -> ReferenceOperator:
        return ReferenceOperator(problem)
