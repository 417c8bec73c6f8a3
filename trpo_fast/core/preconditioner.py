"""What conjugate gradient is preconditioned with: one Kronecker pair for every linear map (K-FAC),
made anew for every solve from some of the rows and one random pass back through the net.

With S S' the Fisher information of a row's distribution and signs xi, the deltas S xi have the
second moments of the scores, so that A = E[(h, 1)(h, 1)'] and G = E[d d'] are K-FAC's factors. The
inverses are those of A + pi s I and G + s / pi I, with s = sqrt(damping) / 2 and pi^2 the ratio of
the mean eigenvalues of A and G: half of what would give the product the damping of F, which
measured best from damping 0.01 to 1. A tensor without factors is scaled by 1 / (c + damping), c its
mean squared element of J' S xi over the square roots of the rows' weights, whose expectation is the
mean of F's diagonal there.

Signs and rows come from a counter-based hash of row numbers: equal inputs give equal bits, whatever
the chunks, and ``csrc/shared/factors.h`` has the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..policy.spec import NetSpec
from .reference import Activations, Inverses, MapInverses, factors, precondition

FEWEST_ROWS = 256  # factors of less are poor, and cost nothing
_SHARE = 0.25  # of the damping that the factors' inverses have
_FLOOR = 1e-4  # of a damping, as a share of the pair's mean eigenvalue
_WORD = 0xFFFFFFFF
_PICK = 0x9E3779B9  # begins the hash that picks rows; signs begin with 0


def mixed(x: Tensor) -> Tensor:
    """A 32-bit hash of the low 32 bits of every element, int64."""
    x = x & _WORD
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _WORD
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _WORD
    return x ^ (x >> 16)


def signs(rows: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Plus or minus one [N, width] for rows of these numbers [N]: bit d % 32 of the hash of
    hash(row) + d // 32 is set for minus.
    """
    d = torch.arange(width, device=rows.device)
    words = mixed(mixed(rows).unsqueeze(-1) + d // 32)
    return (1 - 2 * ((words >> (d % 32)) & 1)).to(dtype)


def factor_stride(rows: int, fraction: float) -> int:
    """Of how many rows one goes into the factors: 1 / fraction, less where few are left."""
    return max(1, min(round(1.0 / fraction), rows // FEWEST_ROWS))


def picked_rows(rows: int, stride: int, device: torch.device) -> Tensor:
    """One row of every ``stride`` in a row, at a hashed place: no period of the rows is missed."""
    begin = torch.arange(0, rows, stride, device=device)
    left = (rows - begin).clamp(max=stride)
    return begin + mixed(begin // stride + _PICK) % left


@dataclass(frozen=True)
class MapFactors:
    """One map's factors A and G, and where it lies in a flat vector."""

    inputs: Tensor
    outputs: Tensor
    weight: slice
    bias: slice | None

    def __add__(self, other: MapFactors) -> MapFactors:
        """The factors over the rows of both."""
        inputs, outputs = self.inputs + other.inputs, self.outputs + other.outputs
        return MapFactors(inputs, outputs, self.weight, self.bias)

    def inverted(self, damping: float, kl_scale: float) -> tuple[MapInverses, Tensor]:
        """A^-1 and G^-1 by Cholesky in float64, and whether both are positive, 0-d."""
        a, g = self.inputs.double(), kl_scale * self.outputs.double()
        mean_a, mean_g = a.diagonal().mean(), g.diagonal().mean()
        shift = (_SHARE * (mean_a * mean_g * _FLOOR).clamp_min(damping)).sqrt()
        pi = (mean_a / mean_g).sqrt().clamp(1e-4, 1e4)
        inverse_a, positive_a = _inverse(a, pi * shift)
        inverse_g, positive_g = _inverse(g, shift / pi)
        dtype = self.inputs.dtype
        pair = MapInverses(inverse_a.to(dtype), inverse_g.to(dtype), self.weight, self.bias)
        return pair, positive_a & positive_g


def _inverse(matrix: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """(matrix + shift I)^-1, and whether it is there."""
    damped = matrix + shift * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    lower, info = torch.linalg.cholesky_ex(damped)
    inverse = torch.cholesky_inverse(lower)
    return inverse, (info == 0) & torch.isfinite(inverse).all()


@dataclass(frozen=True)
class Factors:
    """What some rows add to the factors: those of the maps, and for all else either its curvature,
    where that is known, or J' S xi with the square roots of the rows' weights.
    """

    maps: Sequence[MapFactors]
    known: Sequence[tuple[slice, float]] = ()
    others: Sequence[slice] = ()
    root: Tensor | None = None  # [P]

    def __add__(self, other: Factors) -> Factors:
        maps = [a + b for a, b in zip(self.maps, other.maps, strict=True)]
        root = None
        if self.root is not None and other.root is not None:
            root = self.root + other.root
        return Factors(maps, self.known, self.others, root)


def net_factors(
    theta: Tensor, spec: NetSpec, acts: Activations, delta: Tensor, weights: Tensor
) -> Factors:
    """What rows of an ``MLPPolicy`` add: delta [N, D] is S xi, weights [N] are normalised."""
    maps, offset = [], 0
    for inputs, outputs in factors(theta, spec, acts, delta, weights):
        middle = offset + len(outputs) * (len(inputs) - 1)
        end = middle + len(outputs)
        maps.append(MapFactors(inputs, outputs, slice(offset, middle), slice(middle, end)))
        offset = end
    known = [(slice(offset, spec.size), 2.0)] if spec.free else []  # log_std's block of F
    return Factors(maps, known)


class Preconditioner:
    """M^-1 as conjugate gradient applies it to vectors [..., P] like ``theta``."""

    def __init__(
        self, theta: Tensor, factors: Factors, *, damping: float, kl_scale: float, rows: int
    ) -> None:
        self.rows, self.scaled_blocks = rows, len(factors.others)
        scale = torch.ones_like(theta)
        for span, curvature in factors.known:
            scale[span].fill_(1.0 / (kl_scale * curvature + damping))
        for span in factors.others:
            assert factors.root is not None
            mean = factors.root[span].square().mean()
            scale[span] = 1.0 / (kl_scale * mean + damping)
        found = [pair.inverted(damping, kl_scale) for pair in factors.maps]
        usable = torch.isfinite(scale).all()
        for _, positive in found:
            usable = usable & positive
        sound = torch.where(usable, 1.0, float("nan")).to(theta.dtype)  # NaN: CG goes on without
        pairs = [pair._replace(inputs=sound * pair.inputs) for pair, _ in found]
        self.inverses = Inverses(pairs, sound * scale)

    def __call__(self, r: Tensor) -> Tensor:
        """M^-1 r, [..., P]."""
        return precondition(r, self.inverses)
