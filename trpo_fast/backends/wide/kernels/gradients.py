"""Gradients of the weights, all maps in one launch, and the sum over pieces of rows that ends a
product. No atomics: every piece has its own place, and they are added in order.
"""

import triton
import triton.language as tl

from .products import add_product
from .split import chosen


@triton.jit(
    do_not_specialize=[
        "sums_stride", "sums_column", "pieces_stride", "pieces_column", "rows", "rows_a_piece",
    ]
)  # fmt: skip
def weight_gradients_kernel(
    delta, h, sums, sums_stride, sums_column, pieces, pieces_stride, pieces_column, rows,
    rows_a_piece, first, tiles, fan_ins, fan_outs, weights, biases, delta_places, h_places,
    MAPS: tl.constexpr, MODE: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """pieces <- delta' h over a piece of the rows, a tile [BLOCK, BLOCK] of a map, and the bias.

    ``places``: where each map's planes begin, their stride, where their scales begin and stride.
    ``sums`` are those of delta over the rows of a tile, a map's beginning where its bias does less
    the weights before it.
    """
    tile, piece, column = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    own = tile - chosen(first, tile, first, MAPS)
    across = chosen(tiles, tile, first, MAPS)
    row_tile, column_tile = own // across, own % across
    delta_stride = chosen(delta_places[1], tile, first, MAPS)
    h_stride = chosen(h_places[1], tile, first, MAPS)
    delta_scales = chosen(delta_places[3], tile, first, MAPS)
    h_scales = chosen(h_places[3], tile, first, MAPS)
    begin, side = piece * rows_a_piece, tl.cast(column, tl.int64)
    a_begin = chosen(delta_places[0], tile, first, MAPS) + row_tile * BLOCK
    a_begin += tl.cast(begin, tl.int64) * delta_stride + side * delta[4]
    b_begin = chosen(h_places[0], tile, first, MAPS) + column_tile * BLOCK
    b_begin += tl.cast(begin, tl.int64) * h_stride
    a_scale = chosen(delta_places[2], tile, first, MAPS) + row_tile + column * delta[6]
    b_scale = chosen(h_places[2], tile, first, MAPS) + column_tile
    i, k = tl.arange(0, BLOCK), tl.arange(0, DEPTH)
    gradient = add_product(
        tl.zeros((BLOCK, BLOCK), tl.float32),
        delta, a_begin, k[None, :] * delta_stride + i[:, None], DEPTH * delta_stride,
        a_scale + begin // BLOCK * delta_scales, delta_scales,
        h, b_begin, k[:, None] * h_stride + i[None, :], DEPTH * h_stride,
        b_scale + begin // BLOCK * h_scales, h_scales,
        tl.minimum(rows_a_piece, rows - begin), MODE, BLOCK, DEPTH, BLOCK, BLOCK,
    )  # fmt: skip
    fan_in, fan_out = chosen(fan_ins, tile, first, MAPS), chosen(fan_outs, tile, first, MAPS)
    o, j = row_tile * BLOCK + i, column_tile * BLOCK + i
    out = pieces + side * pieces_column + tl.cast(piece, tl.int64) * pieces_stride
    at = chosen(weights, tile, first, MAPS) + o[:, None] * fan_in + j[None, :]
    tl.store(out + at, gradient, mask=(o < fan_out)[:, None] & (j < fan_in)[None, :])
    if column_tile == 0:
        bias = tl.zeros((BLOCK,), tl.float32)
        added = sums + side * sums_column + chosen(biases[0], tile, first, MAPS)
        for n in range(begin // BLOCK, tl.minimum(begin + rows_a_piece, rows) // BLOCK):
            bias += tl.load(added + n * sums_stride + o, mask=o < fan_out, other=0.0)
        tl.store(out + chosen(biases[1], tile, first, MAPS) + o, bias, mask=o < fan_out)


@triton.jit(
    do_not_specialize=[
        "pieces_stride", "pieces_column", "count", "size", "net", "rounds", "programs",
    ]
)  # fmt: skip
def finish_kernel(
    pieces, pieces_stride, pieces_column, count, v, out, curvatures, size, rounds, programs, net,
    damping, free, AGAIN: tl.constexpr, CURVED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """out <- the sum of the pieces + damping v, or to what is there; past the net's parameters
    F is a multiple of the identity. Where ``CURVED``, each program's share of v'out in float64.
    """
    program, column = tl.program_id(0), tl.program_id(1)
    to, curved = tl.cast(column, tl.int64), tl.zeros((SIZE,), tl.float64)
    for k in range(rounds):
        i = (k * programs + program) * SIZE + tl.arange(0, SIZE)
        at, inside = to * size + i, i < size
        direction = tl.load(v + at, mask=inside, other=0.0)
        if AGAIN:
            total = tl.load(out + at, mask=inside, other=0.0)
        else:
            total = direction * tl.where(i < net, damping, damping + free)
        source = pieces + to * pieces_column + i
        added = tl.zeros((SIZE,), tl.float32)
        for _ in range(count):
            added += tl.load(source, mask=i < net, other=0.0)
            source += pieces_stride
        total += added
        tl.store(out + at, total, mask=inside)
        if CURVED:
            curved += direction.to(tl.float64) * total.to(tl.float64)
    if CURVED:
        tl.store(curvatures + column * programs + program, tl.sum(curved, axis=0))
