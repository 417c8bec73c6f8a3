"""``WideOperator``: the reference's stages with products by the kernels of this folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..._base.guards import outside_autocast
from ...core.batch import Batch, normalised_weights
from ...core.cg import CgResult
from ...core.problem import CgConfig, Problem
from ...policy.net import MLPPolicy
from ..native import readable
from ..reference import Linearization, MLPLinearization, ReferenceOperator
from .product import Float32Product, Product, Rows
from .solve import of_one, solved
from .split_product import SplitProduct
from .tiles import Tiles, tiles_for

COLUMNS = 8  # right-hand sides of one product: memory grows with them


class WideOperator(ReferenceOperator):
    """Forward passes, gradient and evaluation in float32 by torch, F v by Triton or cuBLAS.

    ``explained`` turns errors of the device into reasons why this backend cannot serve.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        tiles: Tiles | None = None,
        explained: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        super().__init__(problem)
        self._explained = explained
        assert isinstance(problem.policy, MLPPolicy)
        self._tiles = tiles or tiles_for(self.theta.device)
        self._product: Product | None = None
        self._held: Rows | None = None

    @property
    def product(self) -> Product:
        """The kernels with theta's weights as they want them, made at the first product."""
        if self._product is None:
            problem, policy = self.problem, self.problem.policy
            assert isinstance(policy, MLPPolicy)
            given = (policy.spec, policy.head, self.theta, self._tiles)
            damping, free = problem.damping, 2.0 * problem.kl_scale
            if problem.precision == "fp32":
                self._product = Float32Product(*given, damping=damping, free=free)
            else:
                mode = problem.precision
                self._product = SplitProduct(*given, mode=mode, damping=damping, free=free)
        return self._product

    def _pieces(self) -> Iterator[Rows]:
        """The rows of products, as these read them."""
        if self._held is not None:
            yield self._held
            return
        for batch, lin in self._fisher_chunks():
            rows = self._rows(batch, lin)
            if not self._chunked:
                self._held = rows
            yield rows

    def _rows(self, batch: Batch, lin: Linearization) -> Rows:
        assert isinstance(lin, MLPLinearization)
        weights = self.problem.kl_scale * normalised_weights(batch, self._fisher_total)
        return self.product.rows(lin.acts, weights.contiguous())

    @outside_autocast
    @torch.no_grad()
    def fvp(self, v: Tensor) -> Tensor:
        with self._explained():
            return self._fvp(v)

    @outside_autocast
    def cg(self, g: Tensor, config: CgConfig, apply: Callable[[Tensor], Tensor] | None) -> CgResult:
        """By kernels of its own where there is no preconditioner."""
        if apply is not None:
            return super().cg(g, config, apply)
        given = readable(g.reshape(-1, g.shape[-1]))
        with torch.no_grad(), self._explained():
            self.product.begin(given)
            found = solved(self._times, given, config, self._tiles, self.product.turn)
        return found if g.ndim == 2 else of_one(found)

    def _fvp(self, v: Tensor) -> Tensor:
        given = readable(v.reshape(-1, v.shape[-1]))
        out = torch.empty_like(given)
        for begin in range(0, len(given), COLUMNS):
            columns = slice(begin, begin + COLUMNS)
            self.product.begin(given[columns])
            self._add(given[columns], out[columns], 0, None)
        return out.view_as(v)

    def _times(self, p: Tensor, curvatures: Tensor) -> Tensor:
        """F p + damping p [K, P] of directions that have begun, and their curvatures."""
        out = torch.empty_like(p)
        for first in range(0, len(p), COLUMNS):
            columns = slice(first, first + COLUMNS)
            self._add(p[columns], out[columns], first, curvatures[columns])
        return out

    def _add(self, v: Tensor, out: Tensor, first: int, curvatures: Tensor | None) -> None:
        seen, every = 0, len(self._fisher_batch)
        for rows in self._pieces():
            again, seen = seen > 0, seen + len(rows)
            last = curvatures if seen == every else None
            self.product.add(rows, v, out, again=again, first=first, curvatures=last)

    @property
    def scratch_bytes(self) -> int:
        rows = self._count()
        held = 0 if self._held is None else self._held.nbytes
        return super().scratch_bytes + held + self.product.scratch_bytes(rows)

    def _count(self) -> int:
        """Rows that one pass of a product sees."""
        every = len(self._fisher_batch)
        return min(every, self.problem.chunk_rows or every)
