"""What a step is for: how much of the best possible improvement its direction has.

At a fixed x'Ax, the quadratic model's KL, the direction A^-1 g raises the linear model g'x most.

    gain(x) = (g'x / sqrt(x'Ax)) / sqrt(g'A^-1 g)

is 1 there and less elsewhere, whatever the length of x. Give everything in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

Product = Callable[[Tensor], Tensor]

# Of CG's residual over |g|; its error in g'A^-1 g goes with the square.
TOLERANCE = 1e-5
ITERATIONS = 5000


def best(product: Product, g: Tensor) -> float:
    """sqrt(g'A^-1 g), the most g'x can be where x'Ax = 1; ``product`` multiplies by A, g [P].

    CG adds alpha_j r_j'r_j to it in iteration j.
    """
    total, r, p = 0.0, g, g
    rr = float(r @ r)
    wanted = TOLERANCE**2 * rr
    for _ in range(ITERATIONS):
        if rr <= wanted:
            return math.sqrt(total)
        z = product(p)
        alpha = rr / float(p @ z)
        total += alpha * rr
        r = r - alpha * z
        rr, before = float(r @ r), rr
        p = r + (rr / before) * p
    raise ArithmeticError(
        f"gain: expected a residual of {TOLERANCE:g} of |g| within {ITERATIONS} products, got "
        f"{TOLERANCE * math.sqrt(rr / wanted):g}"
    )


def gain(product: Product, g: Tensor, x: Tensor, most: float | None = None) -> float:
    """(g'x / sqrt(x'Ax)) / sqrt(g'A^-1 g) of a direction x [P], 0 for none; ``most`` is what
    ``best`` gave, where several directions are judged.
    """
    most = best(product, g) if most is None else most
    quad = float(x @ product(x))
    return float(g @ x) / math.sqrt(quad) / most if quad > 0 and most > 0 else 0.0
