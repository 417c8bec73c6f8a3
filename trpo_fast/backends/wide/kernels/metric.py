"""The Fisher information of a row's distribution, from factors that are constant while its policy
is: a diagonal; probabilities p of diag(p) - p p' for each choice; or pairs that are coupled.
"""

import triton
import triton.language as tl

DIAGONAL = tl.constexpr(0)
CHOICES = tl.constexpr(1)
PAIRS = tl.constexpr(2)


@triton.jit
def diagonal_metric(t, d):
    """d t: Gaussian and Bernoulli heads."""
    return d * t


@triton.jit
def choices_metric(t, p, ids, COUNT: tl.constexpr):
    """p (t - sum p t), the sum being over the choice that an output belongs to."""
    total = tl.zeros_like(t)
    for choice in range(COUNT):
        own = (ids == choice)[None, :]
        total += tl.where(own, tl.sum(tl.where(own, p * t, 0.0), axis=1)[:, None], 0.0)
    return p * (t - total)


@triton.jit
def pairs_metric(t, partner, own, coupling):
    """own t + coupling partner in float64: the Beta head, whose terms nearly cancel."""
    return (own * t.to(tl.float64) + coupling * partner.to(tl.float64)).to(tl.float32)


@triton.jit
def outputs_metric(
    t, factors, factors_stride, ids, n, j, inside, outputs, KIND: tl.constexpr, COUNT: tl.constexpr
):
    """M t of rows n [R] and outputs j [Z], for the heads that need no pairs."""
    f = tl.load(factors + n[:, None] * factors_stride + j[None, :], mask=inside, other=0.0)
    if KIND == CHOICES:
        own = tl.load(ids + j, mask=j < outputs, other=-1)
        return choices_metric(t, f, own, COUNT)
    else:
        return diagonal_metric(t, f)


@triton.jit(do_not_specialize=["t_column", "factors_stride", "rows", "outputs"])
def metric_rows_kernel(
    t, out, t_column, weights, factors, factors_stride, ids, rows, outputs, KIND: tl.constexpr,
    COUNT: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """out <- weights M t of tangents [K, N, Z] in float32."""
    n = tl.cast(tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.int64)
    j = tl.arange(0, WIDTH)
    inside = (n < rows)[:, None] & (j < outputs)[None, :]
    begin = tl.cast(tl.program_id(1), tl.int64) * t_column + n[:, None] * outputs
    tangent = tl.load(t + begin + j[None, :], mask=inside, other=0.0)
    weight = tl.load(weights + n, mask=n < rows, other=0.0)[:, None]
    if KIND == PAIRS:
        half = outputs // 2
        other = tl.where(j < half, j + half, j - half)
        partner = tl.load(t + begin + other[None, :], mask=inside, other=0.0)
        at = factors + n[:, None] * factors_stride + j[None, :]
        own = tl.load(at, mask=inside, other=0.0)
        coupling = tl.load(at + outputs, mask=inside, other=0.0)
        moved = pairs_metric(tangent, partner, own, coupling)
    else:
        moved = outputs_metric(
            tangent, factors, factors_stride, ids, n, j, inside, outputs, KIND, COUNT
        )
    tl.store(out + begin + j[None, :], weight * moved, mask=inside)
