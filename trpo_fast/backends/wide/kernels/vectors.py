"""The vectors of conjugate gradient, with its decisions on the device.

A solve keeps numbers of every right-hand side in float64, in the order of the constants below. Each
program adds up the same partial sums in the same order and decides the same; the first one writes.
"""

import triton
import triton.language as tl

RR = tl.constexpr(0)  # r'r
THRESHOLD = tl.constexpr(1)  # r'r at which a right-hand side has converged
GAIN = tl.constexpr(2)  # the share of x'Ax that a product has to bring; 0: any
FIRST = tl.constexpr(3)  # p'Ap of the first iteration
TOTAL = tl.constexpr(4)  # x'Ax
USED = tl.constexpr(5)  # products
SMALL = tl.constexpr(6)  # products in a row that brought little
ACTIVE = tl.constexpr(7)
STEP = tl.constexpr(8)  # alpha; 0 where nothing moves
NUMBERS = tl.constexpr(9)


@triton.jit
def whole_sum(partials, column, PROGRAMS: tl.constexpr):
    """The sum of all programs' partial sums."""
    i = tl.arange(0, PROGRAMS)
    return tl.sum(tl.load(partials + column * PROGRAMS + i), axis=0)


@triton.jit(do_not_specialize=["size", "rounds"])
def dot_kernel(
    a, b, partials, size, rounds, SIZE: tl.constexpr, PROGRAMS: tl.constexpr
):  # fmt: skip
    """partials <- a'b in float64, a share of it from each program."""
    program, column = tl.program_id(0), tl.program_id(1)
    begin, total = tl.cast(column, tl.int64) * size, tl.zeros((SIZE,), tl.float64)
    for k in range(rounds):
        i = (k * PROGRAMS + program) * SIZE + tl.arange(0, SIZE)
        first = tl.load(a + begin + i, mask=i < size, other=0.0).to(tl.float64)
        total += first * tl.load(b + begin + i, mask=i < size, other=0.0).to(tl.float64)
    tl.store(partials + column * PROGRAMS + program, tl.sum(total, axis=0))


@triton.jit(do_not_specialize=["size", "rounds", "iterations"])
def step_kernel(
    x, r, p, a_p, curvatures, residuals, state, middle, size, rounds, iterations,
    SIZE: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    """x + alpha p, r - alpha A p and shares of r'r, where p'Ap is positive."""
    program, column = tl.program_id(0), tl.program_id(1)
    curvature = whole_sum(curvatures, column, PROGRAMS)
    at = state + column * NUMBERS
    rr, used = tl.load(at + RR), tl.load(at + USED)
    active = (tl.load(at + ACTIVE) > 0.0) & (rr > tl.load(at + THRESHOLD)) & (used < iterations)
    first = tl.where(active & (used == 0.0), curvature, tl.load(at + FIRST))
    active = active & (curvature > 0.0) & (curvature < float("inf"))
    alpha = tl.where(active, rr / tl.where(active, curvature, 1.0), 0.0)
    begin, total = tl.cast(column, tl.int64) * size, tl.zeros((SIZE,), tl.float64)
    scale = alpha.to(tl.float32)
    for k in range(rounds):
        i = (k * PROGRAMS + program) * SIZE + tl.arange(0, SIZE)
        inside = i < size
        residual = tl.load(r + begin + i, mask=inside, other=0.0)
        if active:
            moved = tl.load(x + begin + i, mask=inside, other=0.0)
            moved += scale * tl.load(p + begin + i, mask=inside, other=0.0)
            residual -= scale * tl.load(a_p + begin + i, mask=inside, other=0.0)
            tl.store(x + begin + i, moved, mask=inside)
            tl.store(r + begin + i, residual, mask=inside)
        total += residual.to(tl.float64) * residual.to(tl.float64)
    tl.store(residuals + column * PROGRAMS + program, tl.sum(total, axis=0))
    if program == 0:
        gained, share = alpha * rr, tl.load(at + GAIN)
        whole = tl.load(at + TOTAL) + gained
        small = tl.where(gained <= share * whole, tl.load(at + SMALL) + 1.0, 0.0)
        used += tl.where(active, 1.0, 0.0)
        goes_on = active & ((small < 2.0) | (share <= 0.0)) & (used < iterations)
        to = middle + column * NUMBERS
        tl.store(to + RR, rr)
        tl.store(to + THRESHOLD, tl.load(at + THRESHOLD))
        tl.store(to + GAIN, share)
        tl.store(to + FIRST, first)
        tl.store(to + TOTAL, whole)
        tl.store(to + USED, used)
        tl.store(to + SMALL, small)
        tl.store(to + ACTIVE, tl.where(goes_on, 1.0, 0.0))
        tl.store(to + STEP, alpha)


@triton.jit(do_not_specialize=["size", "rounds"])
def direction_kernel(
    r, p, residuals, middle, state, size, rounds, SIZE: tl.constexpr, PROGRAMS: tl.constexpr
):  # fmt: skip
    """p <- r + beta p where a right-hand side goes on, and the numbers of the next iteration."""
    program, column = tl.program_id(0), tl.program_id(1)
    at = middle + column * NUMBERS
    before, moved = tl.load(at + RR), tl.load(at + STEP) != 0.0
    rr = tl.where(moved, whole_sum(residuals, column, PROGRAMS), before)
    active = tl.load(at + ACTIVE) > 0.0
    beta = tl.where(active, rr / tl.where(active, before, 1.0), 0.0).to(tl.float32)
    begin = tl.cast(column, tl.int64) * size
    if active:
        for k in range(rounds):
            i = (k * PROGRAMS + program) * SIZE + tl.arange(0, SIZE)
            inside = i < size
            next_p = tl.load(r + begin + i, mask=inside, other=0.0)
            next_p += beta * tl.load(p + begin + i, mask=inside, other=0.0)
            tl.store(p + begin + i, next_p, mask=inside)
    if program == 0:
        number = tl.arange(0, 16)
        values = tl.load(at + number, mask=number < NUMBERS, other=0.0)
        values = tl.where(number == RR, rr, values)
        tl.store(state + column * NUMBERS + number, values, mask=number < NUMBERS)
