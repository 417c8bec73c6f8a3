"""How exact is exact enough: one rule for everything that is compared with float64.

    error(core, float64) <= factor x error(float32 reference, float64) + epsilon

Errors are norms of the difference over the norm of the truth. A bound that differs from ``RULE``
has a name, and its reason beside it. Where both sides are float64 there is no float32 reference:
there ``relative_error`` is held below a small multiple of float64's rounding.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Bound(NamedTuple):
    """What a core may add to the float32 reference's own error."""

    factor: float
    epsilon: float


RULE = Bound(2.0, 1e-6)
# Sums over rows that cancel in part, added up in another order than the reference's.
SUMS = Bound(2.0, 3e-6)
# Less than the rule allows: a critic's gradient is nothing but products of matrices.
CRITIC_GRADIENT = Bound(2.0, 5e-7)
# Conjugate gradient carries the rounding of every iteration into all later ones.
SOLUTION = Bound(3.0, 1e-5)
# Parameters that a solution has moved: its error, small beside the parameters' own size.
STEP = Bound(3.0, 1e-6)
# fp16x3 leaves out the product of the two low halves.
FP16X3 = Bound(3.0, 1e-6)
# Random cases of any size and scale: sums of terms that cancel to a small part of themselves.
CAMPAIGN = Bound(4.0, 2e-5)
# A product in float32 that is compared with a dense matrix in float64, without a third to compare.
FLOAT32_PRODUCT = 1e-5


def relative_error(value: Tensor, truth: Tensor) -> float:
    """Norm of the difference over the norm of the truth, in float64 on the host."""
    value, truth = value.detach().cpu().double(), truth.detach().cpu().double()
    return float((value - truth).norm() / truth.norm().clamp_min(1e-300))


def no_worse(
    ours: Tensor, reference: Tensor, truth: Tensor, bound: Bound = RULE, what: str = "result"
) -> None:
    """The rule, for one result of a core, of the float32 reference, and of float64."""
    mine, its = relative_error(ours, truth), relative_error(reference, truth)
    allowed = bound.factor * its + bound.epsilon
    said = f"{what}: error {mine:.2e}, float32 reference {its:.2e}, allowed {allowed:.2e}"
    print(said)
    assert mine <= allowed, said
