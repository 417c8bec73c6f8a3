"""Adam on a flat vector, its count of steps on the host: nothing waits for a device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def adam(
    gradient: Callable[[Tensor], Tensor],
    theta: Tensor,
    steps: int,
    learning_rate: float,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> Tensor:
    """Where theta [P] is after so many steps against ``gradient(theta)``; the operators, and so the
    bits, are those of ``torch.optim.Adam``, one tensor at a time.

    m <- beta1 m + (1 - beta1) g,  s <- beta2 s + (1 - beta2) g^2,
    theta <- theta - learning_rate m / (1 - beta1^t) / (sqrt(s / (1 - beta2^t)) + eps)
    """
    theta = theta.clone()
    first, second = torch.zeros_like(theta), torch.zeros_like(theta)
    for taken in range(1, steps + 1):
        g = gradient(theta)
        with torch.no_grad():
            first.lerp_(g, 1.0 - beta1)
            second.mul_(beta2).addcmul_(g, g, value=1.0 - beta2)
            scale = (second.sqrt() / (1.0 - beta2**taken) ** 0.5).add_(eps)
            theta.addcdiv_(first, scale, value=-(learning_rate / (1.0 - beta1**taken)))
    return theta
