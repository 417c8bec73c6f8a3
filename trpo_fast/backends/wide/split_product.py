"""F v on tensor cores, kernel by kernel: products of planes of 16 bits, or of tf32's."""

from __future__ import annotations

from torch import Tensor

from ...core.reference import Activations
from ...policy.heads import Head
from ...policy.spec import NetSpec
from . import tiles as limits
from .kernels import gradients, products, split
from .launch import launch
from .layout import MODES, Planes, up_to
from .metric import PAIRS, make_metric
from .product import Product, Rows
from .solve import Vectors
from .tiles import Tiles, cut_rows, shares_of


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
        layout = self.layout
        self._maps = (
            layout.first, layout.across, layout.fan_ins, layout.fan_outs, layout.weights,
        )  # fmt: skip
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
            flat, flat.stride(0), planes.whole(), *self._maps, planes.places,
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

    def turn(self, vectors: Vectors) -> None:
        """One kernel turns p and leaves its planes."""
        layout, planes = self.layout, self._directions
        columns, size = vectors.p.shape
        launch(
            split.direction_maps_kernel, (layout.map_tiles, columns), vectors.p, self.tiles,
            vectors.r, vectors.p, vectors.residuals, vectors.middle, vectors.state, size,
            vectors.shares.programs, layout.net, planes.whole(), *self._maps, layout.biases,
            planes.places, MOST=limits.MOST_PROGRAMS, MAPS=layout.maps, **self._constants,
        )  # fmt: skip

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
        layout, block = self.layout, self.tiles.block
        tall, columns = up_to(len(rows), block), len(v)
        widths = [layout.padded(width) for width in layout.fan_outs]
        if self._fused(rows):
            widths[-1] = layout.output_width
        deltas = self._planes([(tall, width) for width in widths], columns)
        sums = v.new_empty(columns, tall // block, layout.sums[-1])
        directions = self._directions.of(first, columns)
        tangents = self._jvp(rows, directions, v)
        self._outputs(rows, directions, tangents, v, deltas, sums)
        self._back(rows, deltas, sums)
        pieces = self._gradients(rows, deltas, sums)
        self._finish(pieces, v, out, again, curvatures)

    def _fused(self, rows: Rows) -> bool:
        return self.layout.outputs_fit and rows.metric.kind != PAIRS

    def _jvp(self, rows: Rows, directions: Planes, v: Tensor) -> Planes:
        """The tangents of the last hidden layer. Layers take turns in two places."""
        layout, acts = self.layout, rows.acts
        tall = up_to(len(rows), self.tiles.block)
        widest = max((layout.padded(width) for width in layout.fan_ins[1:]), default=1)
        tangents = self._planes([(tall, widest)] * min(2, layout.maps - 1) or [(1, 1)], len(v))
        for i in range(layout.maps - 1):
            self._map(rows, i, directions, v, tangents, v, acts.slopes[i])
        return tangents

    def _map(
        self,
        rows: Rows,
        i: int,
        directions: Planes,
        v: Tensor,
        tangents: Planes,
        out: Tensor,
        slope: Tensor | None,
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
            directions.operand(i), self._weights.operand(i), bias, bias.stride(0),
            strided, strided.stride(-2), out, strided.stride(-2), out.stride(0),
            tangents.operand(i % len(tangents.offsets)), len(rows),
            layout.padded(layout.fan_ins[i]), layout.fan_outs[i], width, tiles,
            DEPTH=self.tiles.depth, FIRST=i == 0, LAST=slope is None, **self._constants,
        )  # fmt: skip

    def _outputs(
        self,
        rows: Rows,
        directions: Planes,
        tangents: Planes,
        v: Tensor,
        deltas: Planes,
        sums: Tensor,
    ) -> None:
        """The last map, the metric and delta of the outputs."""
        layout, last, metric = self.layout, self.layout.maps - 1, rows.metric
        own_sums = sums[..., layout.sums[last] :]
        if not self._fused(rows):
            tangent = v.new_empty(len(v), len(rows), layout.fan_outs[-1])
            self._map(rows, last, directions, v, tangents, tangent, None)
            self._split_rows(self.metric_rows(rows, tangent), deltas, last, own_sums)
            return
        assert rows.planes is not None
        bias = v[:, layout.biases[last] :]
        launch(
            products.last_map_kernel, (-(-len(rows) // self.tiles.block), len(v)), v, self.tiles,
            rows.planes.operand(last), tangents.operand((last - 1) % len(tangents.offsets)),
            directions.operand(last), self._weights.operand(last), bias, bias.stride(0),
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

    def _gradients(self, rows: Rows, deltas: Planes, sums: Tensor) -> Tensor:
        """Of the weights and biases [K, pieces, P], by pieces of the rows."""
        layout, tiles = self.layout, self.tiles
        assert rows.planes is not None
        row_tiles = -(-len(rows) // tiles.block)
        cut = cut_rows(row_tiles, layout.map_tiles, tiles)
        pieces = sums.new_empty(len(sums), cut.pieces, layout.net)
        launch(
            gradients.weight_gradients_kernel, (layout.map_tiles, cut.pieces, len(sums)), sums,
            tiles,
            deltas.whole(), rows.planes.whole(), sums, sums.stride(1), sums.stride(0), pieces,
            pieces.stride(1), pieces.stride(0), row_tiles * tiles.block, cut.rows, layout.first,
            layout.across, layout.fan_ins, layout.fan_outs, layout.weights,
            (layout.sums[:-1], layout.biases), deltas.places, rows.planes.places,
            MAPS=layout.maps, DEPTH=tiles.depth, **self._constants,
        )  # fmt: skip
        return pieces

    def _finish(
        self, pieces: Tensor, v: Tensor, out: Tensor, again: bool, curvatures: Tensor | None
    ) -> None:
        (columns, size), tiles = v.shape, self.tiles
        programs, rounds = shares_of(size, tiles)
        launch(
            gradients.finish_kernel, (programs, columns), v, tiles, pieces, pieces.stride(1),
            pieces.stride(0), pieces.shape[1], v, out, v if curvatures is None else curvatures,
            size, rounds, programs, self.layout.net, self.damping, self.free, AGAIN=again,
            CURVED=curvatures is not None, SIZE=tiles.vector,
        )  # fmt: skip

    def scratch_bytes(self, rows: int) -> int:
        layout, planes = self.layout, MODES[self.mode]
        tall = up_to(rows, self.tiles.block)
        widths = [layout.padded(width) for width in layout.fan_outs]
        each = planes[1].itemsize * planes[2]
        cut = cut_rows(tall // self.tiles.block, layout.map_tiles, self.tiles)
        return each * tall * (sum(widths) + 2 * max(widths)) + 4 * cut.pieces * layout.net
