"""The maps of a net: one kernel each forward and back, products of planes on tensor cores.

Sums are float32. Tensor cores truncate when they add, so their sum over DEPTH is added to the
accumulator by ordinary float32 additions.
"""

import triton
import triton.language as tl

from .metric import outputs_metric
from .split import BF16, FP16, INTERPRETED, TF32, store_tile


@triton.jit
def times(a, b, part, MODE: tl.constexpr):
    """part + a b."""
    if INTERPRETED and MODE == BF16:  # whose bf16 is a type of integers
        return tl.dot(a.to(tl.float32), b.to(tl.float32), part, input_precision="ieee")
    elif MODE == TF32:
        return tl.dot(a, b, part, input_precision="tf32")
    else:
        return tl.dot(a, b, part)


@triton.jit
def add_product(
    acc, a, a_begin, a_at, a_step, a_scale, a_scale_step, b, b_begin, b_at, b_step, b_scale,
    b_scale_step, length, MODE: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """acc [ROWS, WIDTH] + A B over ``length``, DEPTH at a time. Operands begin at ``begin``, have
    the offsets ``at`` in a step and go on by ``step``; a scale is good for BLOCK of ``length``.
    """
    a_hi, a_lo = a[0] + a_begin, a[1] + a_begin
    b_hi, b_lo = b[0] + b_begin, b[1] + b_begin
    for k in range(0, length, DEPTH):
        high_a, high_b = tl.load(a_hi + a_at), tl.load(b_hi + b_at)
        part = tl.zeros((ROWS, WIDTH), tl.float32)
        if MODE != TF32:
            low_a, low_b = tl.load(a_lo + a_at), tl.load(b_lo + b_at)
            part = times(low_a, high_b, part, MODE)
            part = times(high_a, low_b, part, MODE)
        part = times(high_a, high_b, part, MODE)
        if MODE == FP16:
            down = tl.load(a[2] + a_scale + (k // BLOCK) * a_scale_step)
            down *= tl.load(b[2] + b_scale + (k // BLOCK) * b_scale_step)
            acc += part * down
        else:
            acc += part
        a_hi += a_step
        a_lo += a_step
        b_hi += b_step
        b_lo += b_step
    return acc


@triton.jit
def add_rows(
    acc, a, a_column, b, b_column, row_tile, column_tile, length, MODE: tl.constexpr,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """acc + A B' of a tile: rows of A [N, length], rows of B [WIDTH, length]."""
    i, j, k = tl.arange(0, BLOCK), tl.arange(0, WIDTH), tl.arange(0, DEPTH)
    a_begin = tl.cast(row_tile * BLOCK, tl.int64) * a[3] + tl.cast(a_column, tl.int64) * a[4]
    b_begin = column_tile * WIDTH * b[3] + tl.cast(b_column, tl.int64) * b[4]
    return add_product(
        acc, a, a_begin, i[:, None] * a[3] + k[None, :], DEPTH,
        row_tile * a[5] + a_column * a[6], 1,
        b, b_begin, j[None, :] * b[3] + k[:, None], DEPTH,
        column_tile * b[5] + b_column * b[6], 1,
        length, MODE, BLOCK, DEPTH, BLOCK, WIDTH,
    )  # fmt: skip


@triton.jit(do_not_specialize=["bias_column", "rows", "fan_out", "tiles"])
def jvp_map_kernel(
    h, t, v, w, bias, bias_column, slope, slope_stride, out, out_stride, out_column, planes,
    rows, fan_in, fan_out, width, tiles, MODE: tl.constexpr, BLOCK: tl.constexpr,
    DEPTH: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """slope (h V' + t W' + bias), tile by tile; the last map's, which has no slope, as floats."""
    row_tile, column_tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    column = tl.program_id(1)
    z = tl.zeros((BLOCK, BLOCK), tl.float32)
    z = add_rows(z, h, 0, v, column, row_tile, column_tile, fan_in, MODE, BLOCK, DEPTH, BLOCK)
    if not FIRST:
        z = add_rows(z, t, column, w, 0, row_tile, column_tile, fan_in, MODE, BLOCK, DEPTH, BLOCK)
    n = tl.cast(row_tile * BLOCK + tl.arange(0, BLOCK), tl.int64)
    j = column_tile * BLOCK + tl.arange(0, BLOCK)
    inside = (n < rows)[:, None] & (j < fan_out)[None, :]
    to = tl.cast(column, tl.int64)
    z += tl.load(bias + to * bias_column + j, mask=j < fan_out, other=0.0)[None, :]
    if LAST:
        tl.store(out + to * out_column + n[:, None] * out_stride + j[None, :], z, mask=inside)
    else:
        z *= tl.load(slope + n[:, None] * slope_stride + j[None, :], mask=inside, other=0.0)
        store_tile(z, planes, row_tile, column_tile, column, width, MODE, BLOCK, BLOCK)


@triton.jit(
    do_not_specialize=[
        "bias_column", "factors_stride", "sums_stride", "sums_column", "rows", "fan_out",
    ]
)  # fmt: skip
def last_map_kernel(
    h, t, v, w, bias, bias_column, weights, factors, factors_stride, ids, planes, sums, sums_stride,
    sums_column, rows, fan_in, fan_out, KIND: tl.constexpr, COUNT: tl.constexpr,
    MODE: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr, WIDTH: tl.constexpr,
    FIRST: tl.constexpr,
):  # fmt: skip
    """weights M (h V' + t W' + bias) of all WIDTH outputs, and its sums over the tile's rows."""
    row_tile, column = tl.program_id(0), tl.program_id(1)
    z = tl.zeros((BLOCK, WIDTH), tl.float32)
    z = add_rows(z, h, 0, v, column, row_tile, 0, fan_in, MODE, BLOCK, DEPTH, WIDTH)
    if not FIRST:
        z = add_rows(z, t, column, w, 0, row_tile, 0, fan_in, MODE, BLOCK, DEPTH, WIDTH)
    n = tl.cast(row_tile * BLOCK + tl.arange(0, BLOCK), tl.int64)
    j = tl.arange(0, WIDTH)
    own = bias + tl.cast(column, tl.int64) * bias_column
    z += tl.load(own + j, mask=j < fan_out, other=0.0)[None, :]
    inside = (n < rows)[:, None] & (j < fan_out)[None, :]
    delta = outputs_metric(z, factors, factors_stride, ids, n, j, inside, fan_out, KIND, COUNT)
    weight = tl.load(weights + n, mask=n < rows, other=0.0)
    delta = tl.where(inside, delta * weight[:, None], 0.0)
    to = sums + tl.cast(column, tl.int64) * sums_column + row_tile * sums_stride
    tl.store(to + j, tl.sum(delta, axis=0), mask=j < fan_out)
    store_tile(delta, planes, row_tile, 0, column, WIDTH, MODE, BLOCK, WIDTH)


@triton.jit(do_not_specialize=["sums_stride", "sums_column", "rows", "fan_in", "tiles"])
def back_map_kernel(
    delta, w, slope, slope_stride, planes, sums, sums_stride, sums_column, rows, fan_in, length,
    width, tiles, MODE: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """slope (delta W), tile by tile, and its sums over the tile's rows."""
    row_tile, column_tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    column = tl.program_id(1)
    i, k = tl.arange(0, BLOCK), tl.arange(0, DEPTH)
    n = tl.cast(row_tile * BLOCK + i, tl.int64)
    j = column_tile * BLOCK + i
    begin = tl.cast(row_tile * BLOCK, tl.int64) * delta[3]
    begin += tl.cast(column, tl.int64) * delta[4]
    back = add_product(
        tl.zeros((BLOCK, BLOCK), tl.float32),
        delta, begin, i[:, None] * delta[3] + k[None, :], DEPTH,
        row_tile * delta[5] + column * delta[6], 1,
        w, column_tile * BLOCK, k[:, None] * w[3] + i[None, :], DEPTH * w[3], column_tile, w[5],
        length, MODE, BLOCK, DEPTH, BLOCK, BLOCK,
    )  # fmt: skip
    inside = (n < rows)[:, None] & (j < fan_in)[None, :]
    back *= tl.load(slope + n[:, None] * slope_stride + j[None, :], mask=inside, other=0.0)
    to = sums + tl.cast(column, tl.int64) * sums_column + row_tile * sums_stride
    tl.store(to + j, tl.sum(back, axis=0), mask=j < fan_in)
    store_tile(back, planes, row_tile, column_tile, column, width, MODE, BLOCK, BLOCK)
