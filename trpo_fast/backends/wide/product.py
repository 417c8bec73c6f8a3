"""F v of some rows, kernel by kernel: planes of 16 bits, or float32 by cuBLAS."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.reference import Activations, unflatten
from ...policy.heads import Head
from ...policy.spec import NetSpec
from .kernels import gradients, products, split
from .kernels import metric as metric_kernels
from .launch import launch
from .layout import MODES, NetLayout, Planes, up_to
from .metric import PAIRS, Metric, make_metric
from .tiles import Tiles, cut_rows


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
    def add(self, rows: Rows, v: Tensor, out: Tensor, *, again: bool) -> None:
        """out [K, P] <- F v of the rows + damping v; where ``again``, F v is added to it."""

    @abc.abstractmethod
    def begin(self, v: Tensor) -> None:
        """Of v [K, P], before the first ``add`` of it."""

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

    def add(self, rows: Rows, v: Tensor, out: Tensor, *, again: bool) -> None:
        net = self.layout.net
        for column, to in zip(v, out, strict=True):
            product = torch.empty_like(to) if again else to
            self._column(rows, column, product[:net])
            if again:
                to[:net] += product[:net]
            else:
                to[:net].add_(column[:net], alpha=self.damping)
                torch.mul(column[net:], self.damping + self.free, out=to[net:])

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


class SplitProduct(Product):
    """Tensor cores on planes: ``mode`` is one of MODES."""

    def __init__(
        self,
        spec: NetSpec,
        head: Head,
        theta: Tensor,
        tiles: Tiles,
        *,
        mode: str,
        damping: float,
        free: float,
    ) -> None:
        super().__init__(spec, head, theta, tiles, damping=damping, free=free)
        self.mode = mode
        self._constants = {"MODE": MODES[mode][0], "BLOCK": tiles.block}
        self._weights = self._split_maps(theta.unsqueeze(0))

    def _planes(self, shapes: list[tuple[int, int]], columns: int) -> Planes:
        return Planes.empty(shapes, self.mode, self.tiles.block, self.theta, columns)

    def _split_maps(self, flat: Tensor) -> Planes:
        """The weights of flat vectors [K, P]."""
        layout, block = self.layout, self.tiles.block
        pairs = zip(layout.fan_outs, layout.fan_ins, strict=True)
        planes = self._planes([(up_to(o, block), up_to(i, block)) for o, i in pairs], len(flat))
        launch(
            split.split_maps_kernel, (layout.map_tiles, len(flat)), flat, self.tiles,
            flat, flat.stride(0), planes.whole(), layout.first, layout.across, layout.weights,
            layout.fan_ins, layout.fan_outs, planes.places,
            MAPS=layout.maps, **self._constants,
        )  # fmt: skip
        return planes

    def rows(self, acts: Activations, weights: Tensor) -> Rows:
        tall = up_to(len(weights), self.tiles.block)
        widths = [self.layout.padded(width) for width in self.layout.fan_ins]
        planes = self._planes([(tall, width) for width in widths], 1)
        for i, h in enumerate(acts.inputs):
            self._split_rows(h.unsqueeze(0), planes, i, None)
        return Rows(acts, weights, make_metric(self.head, acts.params), planes)

    def _split_rows(self, x: Tensor, planes: Planes, place: int, sums: Tensor | None) -> None:
        """x [K, N, H] as planes, and its sums over the rows of every tile."""
        block, (columns, rows, width) = self.tiles.block, x.shape
        tiles = -(-planes.strides[place] // block)
        added = x if sums is None else sums
        launch(
            split.split_rows_kernel, (-(-rows // block) * tiles, columns), x, self.tiles,
            x, x.stride(1), x.stride(0), planes.operand(place), added, added.stride(1),
            added.stride(0), rows, width, planes.strides[place], tiles,
            SUMMED=sums is not None, **self._constants,
        )  # fmt: skip

    def begin(self, v: Tensor) -> None:
        self._directions = self._split_maps(v)

    def add(self, rows: Rows, v: Tensor, out: Tensor, *, again: bool) -> None:
        layout, block = self.layout, self.tiles.block
        tall, columns = up_to(len(rows), block), len(v)
        widths = [layout.padded(width) for width in layout.fan_outs]
        if self._fused(rows):
            widths[-1] = layout.output_width
        deltas = self._planes([(tall, width) for width in widths], columns)
        sums = v.new_empty(columns, tall // block, layout.sums[-1])
        tangents = self._jvp(rows, v)
        self._outputs(rows, tangents, v, deltas, sums)
        self._back(rows, deltas, sums)
        self._gradients(rows, deltas, sums, v, out, again)

    def _fused(self, rows: Rows) -> bool:
        return self.layout.outputs_fit and rows.metric.kind != PAIRS

    def _jvp(self, rows: Rows, v: Tensor) -> Planes:
        """The tangents of the last hidden layer. Layers take turns in two places."""
        layout, acts = self.layout, rows.acts
        tall = up_to(len(rows), self.tiles.block)
        widest = max((layout.padded(width) for width in layout.fan_ins[1:]), default=1)
        tangents = self._planes([(tall, widest)] * min(2, layout.maps - 1) or [(1, 1)], len(v))
        for i in range(layout.maps - 1):
            self._map(rows, i, v, tangents, v, acts.slopes[i])
        return tangents

    def _map(
        self, rows: Rows, i: int, v: Tensor, tangents: Planes, out: Tensor, slope: Tensor | None
    ) -> None:
        """One map's tangents; without a slope into out [K, N, Z]."""
        layout, block = self.layout, self.tiles.block
        assert rows.planes is not None
        width = layout.fan_outs[i] if slope is None else layout.padded(layout.fan_outs[i])
        tiles = -(-width // block)
        strided = out if slope is None else slope
        bias = v[:, layout.biases[i] :]
        launch(
            products.jvp_map_kernel, (-(-len(rows) // block) * tiles, len(v)), v, self.tiles,
            rows.planes.operand(i), tangents.operand((i - 1) % len(tangents.offsets)),
            self._directions.operand(i), self._weights.operand(i), bias, bias.stride(0),
            strided, strided.stride(-2), out, strided.stride(-2), out.stride(0),
            tangents.operand(i % len(tangents.offsets)), len(rows),
            layout.padded(layout.fan_ins[i]), layout.fan_outs[i], width, tiles,
            DEPTH=self.tiles.depth, FIRST=i == 0, LAST=slope is None, **self._constants,
        )  # fmt: skip

    def _outputs(
        self, rows: Rows, tangents: Planes, v: Tensor, deltas: Planes, sums: Tensor
    ) -> None:
        """The last map, the metric and delta of the outputs."""
        layout, last, metric = self.layout, self.layout.maps - 1, rows.metric
        own_sums = sums[..., layout.sums[last] :]
        if not self._fused(rows):
            tangent = v.new_empty(len(v), len(rows), layout.fan_outs[-1])
            self._map(rows, last, v, tangents, tangent, None)
            self._split_rows(self.metric_rows(rows, tangent), deltas, last, own_sums)
            return
        assert rows.planes is not None
        bias = v[:, layout.biases[last] :]
        launch(
            products.last_map_kernel, (-(-len(rows) // self.tiles.block), len(v)), v, self.tiles,
            rows.planes.operand(last), tangents.operand((last - 1) % len(tangents.offsets)),
            self._directions.operand(last), self._weights.operand(last), bias, bias.stride(0),
            rows.weights, metric.factors, metric.factors.stride(0), metric.ids,
            deltas.operand(last), own_sums, sums.stride(1), sums.stride(0), len(rows),
            layout.padded(layout.fan_ins[last]), layout.fan_outs[last],
            KIND=metric.kind, COUNT=metric.choices, DEPTH=self.tiles.depth,
            WIDTH=layout.output_width, FIRST=last == 0, **self._constants,
        )  # fmt: skip

    def _back(self, rows: Rows, deltas: Planes, sums: Tensor) -> None:
        layout, block = self.layout, self.tiles.block
        for i in reversed(range(1, layout.maps)):
            slope, width, length = rows.acts.slopes[i - 1], deltas.strides[i - 1], deltas.strides[i]
            tiles = -(-width // block)
            launch(
                products.back_map_kernel, (-(-len(rows) // block) * tiles, len(sums)), sums,
                self.tiles, deltas.operand(i), self._weights.operand(i), slope, slope.stride(0),
                deltas.operand(i - 1), sums[..., layout.sums[i - 1] :], sums.stride(1),
                sums.stride(0), len(rows), layout.fan_ins[i], length, width, tiles,
                DEPTH=min(self.tiles.depth, length), **self._constants,
            )  # fmt: skip

    def _gradients(
        self, rows: Rows, deltas: Planes, sums: Tensor, v: Tensor, out: Tensor, again: bool
    ) -> None:
        layout, tiles = self.layout, self.tiles
        assert rows.planes is not None
        row_tiles = -(-len(rows) // tiles.block)
        cut = cut_rows(row_tiles, layout.map_tiles, tiles)
        pieces = v.new_empty(len(v), cut.pieces, layout.net)
        launch(
            gradients.weight_gradients_kernel, (layout.map_tiles, cut.pieces, len(v)), v, tiles,
            deltas.whole(), rows.planes.whole(), sums, sums.stride(1), sums.stride(0), pieces,
            pieces.stride(1), pieces.stride(0), row_tiles * tiles.block, cut.rows, layout.first,
            layout.across, layout.fan_ins, layout.fan_outs, layout.weights,
            (layout.sums[:-1], layout.biases), deltas.places, rows.planes.places,
            MAPS=layout.maps, DEPTH=tiles.depth, **self._constants,
        )  # fmt: skip
        launch(
            gradients.finish_kernel, (-(-v.shape[1] // tiles.vector), len(v)), v, tiles, pieces,
            pieces.stride(1), pieces.stride(0), cut.pieces, v, out, v.shape[1], layout.net,
            self.damping, self.free, AGAIN=again, SIZE=tiles.vector,
        )  # fmt: skip

    def scratch_bytes(self, rows: int) -> int:
        layout, planes = self.layout, MODES[self.mode]
        tall = up_to(rows, self.tiles.block)
        widths = [layout.padded(width) for width in layout.fan_outs]
        each = planes[1].itemsize * planes[2]
        cut = cut_rows(tall // self.tiles.block, layout.map_tiles, self.tiles)
        return each * tall * (sum(widths) + 2 * max(widths)) + 4 * cut.pieces * layout.net
