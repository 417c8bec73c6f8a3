"""``backend="reference"``: the stages of core/reference.py over the rows of a problem, whole or
chunk by chunk.

``MLPPolicy`` goes through the hand-written stages; any other module that returns a distribution
goes through torch.func's jvp and vjp (module.py) with the same metrics, so the two share
everything in this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from .._base.arguments import fail
from .._base.guards import outside_autocast
from .._base.rows import one_tensor
from ..core.bad_values import Judged, found
from ..core.batch import Batch, normalised_weights, total_weight
from ..core.cg import CgResult
from ..core.modules import InvalidDistribution, ModuleFunction, Refused
from ..core.preconditioner import Factors, Preconditioner, net_factors, picked_rows, signs
from ..core.problem import CgConfig, Operator, Problem
from ..core.reference import Activations, forward, jvp, metric, vjp
from ..core.sequences import rows_of
from ..core.surrogate import Measures, evaluate_rows, surrogate
from ..policy.heads import Head, TakenActions, without_head
from ..policy.net import MLPPolicy
from ..policy.recurrent import RecurrentPolicy
from ..policy.spec import NetSpec
from .base import Backend
from .module import ModuleLinearization
from .recurrent import RecurrentLinearization, RecurrentModel
from .support import SERVES, Support


class Linearization(Protocol):
    """A policy around one theta on some rows: its distribution parameters and their derivative."""

    head: Head
    params: Tensor  # [N, D]

    def jvp(self, v: Tensor) -> Tensor:
        """J v, [..., N, D]."""

    def metric(self, tangent: Tensor) -> Tensor:
        """M J v, [..., N, D]."""

    def vjp(self, delta: Tensor) -> Tensor:
        """J' delta summed over rows, [..., P]."""

    def factors(self, delta: Tensor, weights: Tensor) -> Factors:
        """What these rows add to K-FAC's factors: delta [N, D] is S xi, weights [N] normalised."""

    def nbytes(self) -> int:
        """Memory the linearization holds."""


class MLPLinearization:
    """The hand-written stages, with the activations cached."""

    def __init__(self, spec: NetSpec, head: Head, theta: Tensor, batch: Batch) -> None:
        self.spec, self.head, self.theta = spec, head, theta
        self.acts: Activations = forward(
            theta, spec, head, one_tensor(batch.obs), batch.action_mask
        )
        self.params = self.acts.params

    def jvp(self, v: Tensor) -> Tensor:
        return jvp(self.theta, self.spec, self.acts, v)

    def metric(self, tangent: Tensor) -> Tensor:
        return metric(self.head, self.acts, tangent)

    def vjp(self, delta: Tensor) -> Tensor:
        return vjp(self.theta, self.spec, self.acts, delta)

    def factors(self, delta: Tensor, weights: Tensor) -> Factors:
        return net_factors(self.theta, self.spec, self.acts, delta, weights)

    def nbytes(self) -> int:
        held = [*self.acts.inputs[1:], *self.acts.slopes, self.params]
        return sum(t.numel() * t.element_size() for t in held)


class ReferenceOperator(Operator):
    """Stages over chunks of rows; without ``chunk_rows`` there is one chunk and its forward runs
    once.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.batch = problem.batch.without_padding()
        self.total = total_weight(self.batch, self.theta.dtype)
        self.module = self._as_module(problem.policy)
        self._sequences = RecurrentModel(problem.policy) if _by_hand(problem.policy) else None
        # The stages' own derivatives agree, and a device is not waited for.
        by_torch = self.module is not None and self._sequences is None
        self._compare = by_torch and self.theta.device.type == "cpu"
        self._chunked = problem.chunk_rows is not None
        self._cached: Linearization | None = None
        self._fisher_batch, self._fisher_total = self.batch, self.total
        self._fisher_cached: Linearization | None = None
        if problem.fvp_rows is not None:
            self._fisher_batch = problem.of_fvp_rows(self.batch)
            self._fisher_total = total_weight(self._fisher_batch, self.theta.dtype)

    @outside_autocast
    def _as_module(self, policy: nn.Module) -> ModuleFunction | None:
        """The policy as a module, where the stages are not for it."""
        if isinstance(policy, MLPPolicy) and not policy.departure():
            return None
        function = ModuleFunction(policy, self.batch)
        if isinstance(function.head, TakenActions) and self.problem.fisher != "empirical":
            raise without_head(f"{function.head.found!r} (fisher='empirical' takes any)")
        return function

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
        """Chunks of about ``chunk_rows`` rows that never cut a group or a sequence."""
        unit = batch.unit
        size = -(-(self.problem.chunk_rows or len(batch)) // unit) * unit
        for start in range(0, len(batch), size):
            yield batch.rows(slice(start, start + size))

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
            total = total + pulled
        return total

    def _check_derivatives(self, quad: Tensor, v: Tensor, pulled: Tensor) -> None:
        """Whether (J v)' delta, which is ``quad``, equals v' (J' delta) up to rounding: the first
        is torch's forward derivative of a module, the second its backward one.
        """
        other = (v * pulled).sum(-1)
        slack = 0.01 * quad.abs() + 1e-5 * v.norm(dim=-1) * pulled.norm(dim=-1)
        if bool(((quad - other).abs() > slack).any()):
            raise fail(
                "policy",
                "modules whose forward and backward derivatives are the same (detach() or "
                "requires_grad_(False) in place of torch.no_grad() in a forward)",
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
        part = replace(self._fisher_batch.rows(picked), group_size=None)
        total = total_weight(part, self.theta.dtype)
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
        return Preconditioner(
            self.theta,
            found,
            damping=self.problem.damping,
            kl_scale=self.problem.kl_scale,
            rows=len(part),
        )

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
        for batch, lin in self._chunks():
            try:
                params = self.linearize(theta, batch).params
            except InvalidDistribution:  # as NaN is where distributions do not look
                params = torch.full_like(lin.params, float("nan"))
            parts.append(self._evaluate_rows(lin.head, batch, lin.params, params))
        return _combine(parts)

    def _evaluate_rows(self, head: Head, batch: Batch, old: Tensor, new: Tensor) -> Measures:
        kl_scale, reverse = self.problem.kl_scale, self.problem.reverse_kl
        return evaluate_rows(
            head, batch, old, new, self.total, kl_scale=kl_scale, reverse_kl=reverse
        )

    @outside_autocast
    def bad_values(self) -> Tensor:
        head = next(lin.head for _, lin in self._chunks())
        return found(Judged(head, self.problem.batch, self.batch, self.problem.fvp_rows))

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

    def problem_support(self, problem: Problem) -> Support:
        return SERVES

    def operator(self, problem: Problem) -> ReferenceOperator:
        return ReferenceOperator(problem)
