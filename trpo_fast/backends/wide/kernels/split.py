"""A float32 tile as two planes of 16 bits, or one of tf32's 19; flat vectors and rows as planes."""

import triton
import triton.language as tl
from triton import knobs

from .vectors import keep_numbers, next_turn, turned

INTERPRETED = tl.constexpr(knobs.runtime.interpret)  # which truncates casts to bf16
FP16 = tl.constexpr(0)
BF16 = tl.constexpr(1)
TF32 = tl.constexpr(2)


@triton.jit
def powers_of_two(x):
    """(up, 1 / up): up brings the largest of a tile to [2^13, 2^14), below fp16's 65504. Both are
    normal numbers; 1 where the tile is zero or not finite.
    """
    bits = tl.abs(x).to(tl.int32, bitcast=True)  # which compare like the numbers, NaN last
    peak = tl.max(tl.max(bits, axis=1), axis=0)
    usable = (peak > 0) & (peak < 0x7F800000)
    exponent = tl.maximum(peak >> 23, 30)
    up = tl.where(usable, (267 - exponent) << 23, 0x3F800000)
    down = tl.where(usable, (exponent - 13) << 23, 0x3F800000)
    return up.to(tl.float32, bitcast=True), down.to(tl.float32, bitcast=True)


@triton.jit
def to_bf16(x):
    """To the nearest, ties to even."""
    if INTERPRETED:
        bits = x.to(tl.int32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        x = tl.where(x == x, rounded.to(tl.float32, bitcast=True), x)
    return x.to(tl.bfloat16)


@triton.jit
def store_planes(x, planes, at, scale_at, mask, MODE: tl.constexpr):
    """Store a tile at its element offsets, and its scale."""
    if MODE == TF32:
        bits = x.to(tl.int32, bitcast=True)
        nearest = ((bits + 0x1000) & -8192).to(tl.float32, bitcast=True)
        tl.store(planes[0] + at, nearest, mask=mask)
    elif MODE == BF16:
        hi = to_bf16(x)
        tl.store(planes[0] + at, hi, mask=mask)
        tl.store(planes[1] + at, to_bf16(x - hi.to(tl.float32)), mask=mask)
    else:
        up, down = powers_of_two(x)
        x *= up
        hi = x.to(tl.float16)
        tl.store(planes[0] + at, hi, mask=mask)
        tl.store(planes[1] + at, (x - hi.to(tl.float32)).to(tl.float16), mask=mask)
        tl.store(planes[2] + scale_at, down)


@triton.jit
def store_tile(
    x, planes, row_tile, column_tile, column, width, MODE: tl.constexpr, BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Store a tile [BLOCK, WIDTH] of the rows of an operand, whose rows are ``width`` long."""
    i, j = tl.arange(0, BLOCK), column_tile * WIDTH + tl.arange(0, WIDTH)
    begin = tl.cast(row_tile * BLOCK, tl.int64) * planes[3] + tl.cast(column, tl.int64) * planes[4]
    at = begin + i[:, None] * planes[3] + j[None, :]
    scale_at = column * planes[6] + row_tile * planes[5] + column_tile
    store_planes(x, planes, at, scale_at, (j < width)[None, :], MODE)


@triton.jit(
    do_not_specialize=[
        "x_stride", "x_column", "sums_stride", "sums_column", "rows", "columns", "tiles",
    ]
)  # fmt: skip
def split_rows_kernel(
    x, x_stride, x_column, planes, sums, sums_stride, sums_column, rows, columns, width, tiles,
    MODE: tl.constexpr, BLOCK: tl.constexpr, SUMMED: tl.constexpr,
):  # fmt: skip
    """planes <- x [rows, columns], zero up to ``width``; its tiles' sums over rows, where asked."""
    row_tile, column_tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    column = tl.program_id(1)
    n = row_tile * BLOCK + tl.arange(0, BLOCK)
    j = column_tile * BLOCK + tl.arange(0, BLOCK)
    inside = (n < rows)[:, None] & (j < columns)[None, :]
    begin = tl.cast(column, tl.int64) * x_column
    at = begin + tl.cast(n, tl.int64)[:, None] * x_stride + j[None, :]
    value = tl.load(x + at, mask=inside, other=0.0)
    if SUMMED:
        to = sums + tl.cast(column, tl.int64) * sums_column + row_tile * sums_stride + j
        tl.store(to, tl.sum(value, axis=0), mask=j < columns)
    store_tile(value, planes, row_tile, column_tile, column, width, MODE, BLOCK, BLOCK)


@triton.jit
def chosen(values, tile, first, MAPS: tl.constexpr):
    """The entry of the map that a tile belongs to; ``first`` are the numbers of the maps' tiles."""
    found = values[0]
    for m in tl.static_range(1, MAPS):
        found = tl.where(tile >= first[m], values[m], found)
    return found


@triton.jit
def tile_place(
    tile, first, tiles, fan_ins, fan_outs, weights, MAPS: tl.constexpr, BLOCK: tl.constexpr
):
    """Of a tile of the maps' weights: its row and column among those of its map, places in a flat
    vector and which of these are the map's.
    """
    fan_in, fan_out = chosen(fan_ins, tile, first, MAPS), chosen(fan_outs, tile, first, MAPS)
    across = chosen(tiles, tile, first, MAPS)
    own = tile - chosen(first, tile, first, MAPS)
    row_tile, column_tile = own // across, own % across
    i, j = row_tile * BLOCK + tl.arange(0, BLOCK), column_tile * BLOCK + tl.arange(0, BLOCK)
    at = chosen(weights, tile, first, MAPS) + i[:, None] * fan_in + j[None, :]
    return row_tile, column_tile, at, (i < fan_out)[:, None] & (j < fan_in)[None, :]


@triton.jit
def store_map_tile(
    value, planes, tile, row_tile, column_tile, column, first, places, MAPS: tl.constexpr,
    MODE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store it. ``places``: where each map's planes begin, their stride, where their scales begin
    and stride.
    """
    stride = chosen(places[1], tile, first, MAPS)
    i, j = row_tile * BLOCK + tl.arange(0, BLOCK), column_tile * BLOCK + tl.arange(0, BLOCK)
    begin = tl.cast(column, tl.int64) * planes[4] + chosen(places[0], tile, first, MAPS)
    scale_at = column * planes[6] + chosen(places[2], tile, first, MAPS) + column_tile
    scale_at += row_tile * chosen(places[3], tile, first, MAPS)
    at = begin + i[:, None] * stride + j[None, :]
    store_planes(value, planes, at, scale_at, (j < stride)[None, :], MODE)


@triton.jit
def split_maps_kernel(
    flat, flat_column, planes, first, tiles, fan_ins, fan_outs, weights, places,
    MAPS: tl.constexpr, MODE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """planes <- every map's weights [fan_out, fan_in] of flat vectors [K, P], a tile a program."""
    tile, column = tl.program_id(0), tl.program_id(1)
    row_tile, column_tile, at, inside = tile_place(
        tile, first, tiles, fan_ins, fan_outs, weights, MAPS, BLOCK
    )
    at += tl.cast(column, tl.int64) * flat_column
    value = tl.load(flat + at, mask=inside, other=0.0)
    store_map_tile(
        value, planes, tile, row_tile, column_tile, column, first, places, MAPS, MODE, BLOCK
    )


@triton.jit(do_not_specialize=["size", "programs", "net"])
def direction_maps_kernel(
    r, p, residuals, middle, state, size, programs, net, planes, first, tiles, fan_ins, fan_outs,
    weights, biases, places, MOST: tl.constexpr, MAPS: tl.constexpr, MODE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """``vectors.direction_kernel`` with the next direction's planes. A map's bias goes with the
    first tile of each of its rows, what is no map's with the first of all.
    """
    tile, column = tl.program_id(0), tl.program_id(1)
    active, beta, rr = next_turn(residuals, middle, column, programs, MOST)
    if active:
        begin, i = tl.cast(column, tl.int64) * size, tl.arange(0, BLOCK)
        row_tile, column_tile, at, inside = tile_place(
            tile, first, tiles, fan_ins, fan_outs, weights, MAPS, BLOCK
        )
        value = turned(r, p, begin + at, inside, beta)
        store_map_tile(
            value, planes, tile, row_tile, column_tile, column, first, places, MAPS, MODE, BLOCK
        )
        if column_tile == 0:
            o = row_tile * BLOCK + i
            bias = begin + chosen(biases, tile, first, MAPS) + o
            turned(r, p, bias, o < chosen(fan_outs, tile, first, MAPS), beta)
        if tile == 0:
            for k in range(net, size, BLOCK):
                turned(r, p, begin + k + i, k + i < size, beta)
    if tile == 0:
        keep_numbers(middle, state, column, rr)
