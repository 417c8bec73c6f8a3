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
def whole_sum(partials, column, programs, MOST: tl.constexpr):
    """The sum of all programs' partial sums, at most ``MOST``."""
    i = tl.arange(0, MOST)
    return tl.sum(tl.load(partials + column * programs + i, mask=i < programs, other=0.0), axis=0)


@triton.jit
def next_turn(residuals, middle, column, programs, MOST: tl.constexpr):
    """Whether a right-hand side goes on, its beta, and its r'r."""
    at = middle + column * NUMBERS
    before, moved = tl.load(at + RR), tl.load(at + STEP) != 0.0
    rr = tl.where(moved, whole_sum(residuals, column, programs, MOST), before)
    active = tl.load(at + ACTIVE) > 0.0
    return active, tl.where(active, rr / tl.where(active, before, 1.0), 0.0).to(tl.float32), rr


@triton.jit
def turned(r, p, at, mask, beta):
    """p <- r + beta p in some places, and what it is there."""
    next_p = tl.load(r + at, mask=mask, other=0.0) + beta * tl.load(p + at, mask=mask, other=0.0)
    tl.store(p + at, next_p, mask=mask)
    return next_p


@triton.jit
def keep_numbers(middle, state, column, rr):
    """state <- the numbers of the next iteration."""
    number = tl.arange(0, 16)
    values = tl.load(middle + column * NUMBERS + number, mask=number < NUMBERS, other=0.0)
    values = tl.where(number == RR, rr, values)
    tl.store(state + column * NUMBERS + number, values, mask=number < NUMBERS)


@triton.jit(do_not_specialize=["size", "rounds", "programs"])
def dot_kernel(a, b, partials, size, rounds, programs, SIZE: tl.constexpr):
    """partials <- a'b in float64, a share of it from each program."""
    program, column = tl.program_id(0), tl.program_id(1)
    begin, total = tl.cast(column, tl.int64) * size, tl.zeros((SIZE,), tl.float64)
    for k in range(rounds):
        i = (k * programs + program) * SIZE + tl.arange(0, SIZE)
        first = tl.load(a + begin + i, mask=i < size, other=0.0).to(tl.float64)
        total += first * tl.load(b + begin + i, mask=i < size, other=0.0).to(tl.float64)
    tl.store(partials + column * programs + program, tl.sum(total, axis=0))


@triton.jit(do_not_specialize=["size", "rounds", "programs", "iterations"])
def step_kernel(
    x, r, p, a_p, curvatures, residuals, state, middle, size, rounds, programs, iterations,
    SIZE: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """x + alpha p, r - alpha A p and shares of r'r, where p'Ap is positive."""
    program, column = tl.program_id(0), tl.program_id(1)
    curvature = whole_sum(curvatures, column, programs, MOST)
    at = state + column * NUMBERS
    rr, used = tl.load(at + RR), tl.load(at + USED)
    active = (tl.load(at + ACTIVE) > 0.0) & (rr > tl.load(at + THRESHOLD)) & (used < iterations)
    first = tl.where(active & (used == 0.0), curvature, tl.load(at + FIRST))
    active = active & (curvature > 0.0) & (curvature < float("inf"))
    alpha = tl.where(active, rr / tl.where(active, curvature, 1.0), 0.0)
    begin, total = tl.cast(column, tl.int64) * size, tl.zeros((SIZE,), tl.float64)
    scale = alpha.to(tl.float32)
    for k in range(rounds):
        i = (k * programs + program) * SIZE + tl.arange(0, SIZE)
        inside = i < size
        residual = tl.load(r + begin + i, mask=inside, other=0.0)
        if active:
            moved = tl.load(x + begin + i, mask=inside, other=0.0)
            moved += scale * tl.load(p + begin + i, mask=inside, other=0.0)
            residual -= scale * tl.load(a_p + begin + i, mask=inside, other=0.0)
            tl.store(x + begin + i, moved, mask=inside)
            tl.store(r + begin + i, residual, mask=inside)
        total += residual.to(tl.float64) * residual.to(tl.float64)
    tl.store(residuals + column * programs + program, tl.sum(total, axis=0))
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


@triton.jit(do_not_specialize=["size", "rounds", "programs"])
def direction_kernel(
    r, p, residuals, middle, state, size, rounds, programs, SIZE: tl.constexpr, MOST: tl.constexpr
):  # fmt: skip
    """p <- r + beta p where a right-hand side goes on, and the numbers of the next iteration."""
    program, column = tl.program_id(0), tl.program_id(1)
    active, beta, rr = next_turn(residuals, middle, column, programs, MOST)
    begin = tl.cast(column, tl.int64) * size
    if active:
        for k in range(rounds):
            i = (k * programs + program) * SIZE + tl.arange(0, SIZE)
            turned(r, p, begin + i, i < size, beta)
    if program == 0:
        keep_numbers(middle, state, column, rr)
