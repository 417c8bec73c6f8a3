"""F v of some rows, piece by piece: what every precision has in common, and float32 by cuBLAS."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.reference import Activations, unflatten
from ...policy.heads import Head
from ...policy.spec import NetSpec
from .kernels import metric as metric_kernels
from .launch import launch
from .layout import NetLayout, Planes
from .metric import Metric, make_metric
from .solve import Vectors, share_curvature
from .tiles import Tiles


@dataclass(frozen=True)
class Rows:
    """Some rows at one theta, as products read them."""

    acts: Activations
    weights: Tensor  # [N], each row's share of F
    metric: Metric
    planes: Planes | None  # of the activations

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def nbytes(self) -> int:
        planes = 0 if self.planes is None else self.planes.nbytes
        return planes + self.weights.nbytes + self.metric.factors.nbytes


class Product(abc.ABC):
    """F v + damping v of one net at one theta, rows added piece by piece."""

    def __init__(
        self, spec: NetSpec, head: Head, theta: Tensor, tiles: Tiles, *, damping: float, free: float
    ) -> None:
        self.spec, self.head, self.theta, self.tiles = spec, head, theta, tiles
        self.layout = NetLayout(spec, tiles)
        self.damping, self.free = damping, free  # F of log_std is free I

    @abc.abstractmethod
    def rows(self, acts: Activations, weights: Tensor) -> Rows:
        """What products read of rows with these activations and weights [N]."""

    @abc.abstractmethod
    def begin(self, v: Tensor) -> None:
        """Of v [K, P], before the first ``add`` of it."""

    @abc.abstractmethod
    def add(
        self,
        rows: Rows,
        v: Tensor,
        out: Tensor,
        *,
        again: bool,
        first: int = 0,
        curvatures: Tensor | None = None,
    ) -> None:
        """out [K, P] <- F v of the rows + damping v; where ``again``, F v is added to it. v are
        those of ``begin`` from the ``first`` on. With ``curvatures``, the last time, these become
        the programs' shares of v'out.
        """

    def turn(self, vectors: Vectors) -> None:
        """The next direction of a solve, as ``begin`` leaves it."""
        vectors.turn()

    @abc.abstractmethod
    def scratch_bytes(self, rows: int) -> int:
        """Memory of one right-hand side's product over so many rows."""

    def metric_rows(self, rows: Rows, tangent: Tensor) -> Tensor:
        """weights M t of tangents [K, N, Z]."""
        outputs, metric = tangent.shape[-1], rows.metric
        width = max(16, 1 << (outputs - 1).bit_length())
        each, out = max(1, self.tiles.vector * 4 // width), torch.empty_like(tangent)
        launch(
            metric_kernels.metric_rows_kernel, (-(-len(rows) // each), len(tangent)), tangent,
            self.tiles, tangent, out, len(rows) * outputs, rows.weights, metric.factors,
            metric.factors.stride(0), metric.ids, len(rows), outputs,
            KIND=metric.kind, COUNT=metric.choices, ROWS=each, WIDTH=width,
        )  # fmt: skip
        return out


class Float32Product(Product):
    """cuBLAS for the products of matrices, float32 throughout."""

    def rows(self, acts: Activations, weights: Tensor) -> Rows:
        return Rows(acts, weights, make_metric(self.head, acts.params), None)

    def begin(self, v: Tensor) -> None:
        self._layers = unflatten(self.theta, self.spec)

    def add(
        self,
        rows: Rows,
        v: Tensor,
        out: Tensor,
        *,
        again: bool,
        first: int = 0,
        curvatures: Tensor | None = None,
    ) -> None:
        net = self.layout.net
        for column, to in zip(v, out, strict=True):
            product = torch.empty_like(to) if again else to
            self._column(rows, column, product[:net])
            if again:
                to[:net] += product[:net]
            else:
                to[:net].add_(column[:net], alpha=self.damping)
                torch.mul(column[net:], self.damping + self.free, out=to[net:])
        if curvatures is not None:
            share_curvature(v, out, curvatures, self.tiles)

    def _column(self, rows: Rows, v: Tensor, out: Tensor) -> None:
        acts, tangents = rows.acts, unflatten(v, self.spec)
        weights = self._layers.weights
        t: Tensor | None = None
        for i, (weight, bias) in enumerate(zip(tangents.weights, tangents.biases, strict=True)):
            z = torch.addmm(bias, acts.inputs[i], weight.T)
            if t is not None:
                z.addmm_(t, weights[i].T)
            t = z.mul_(acts.slopes[i]) if i < self.layout.maps - 1 else z
        assert t is not None
        delta = self.metric_rows(rows, t.unsqueeze(0))[0]
        to = unflatten(out, self.spec)
        for i in reversed(range(self.layout.maps)):
            torch.mm(delta.T, acts.inputs[i], out=to.weights[i])
            torch.sum(delta, 0, out=to.biases[i])
            if i > 0:
                delta = torch.mm(delta, weights[i]).mul_(acts.slopes[i - 1])

    def scratch_bytes(self, rows: int) -> int:
        return 4 * 3 * rows * max(self.spec.widths[1:])
