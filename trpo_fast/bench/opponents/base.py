"""What an opponent is, and the plain conjugate gradient that most of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ...backends.support import SERVES, Support

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Setup:
    """A tanh net with a Gaussian (free log_std) or categorical head, and its rows."""

    params: list[Tensor]  # W1, b1, ..., WL, bL, then log_std for "gaussian"
    obs: Tensor  # [N, O]
    head: str  # "gaussian" or "categorical"
    damping: float

    @property
    def maps(self) -> int:
        return len(self.params) // 2

    @property
    def sizes(self) -> list[int]:
        return [p.numel() for p in self.params]

    @property
    def device(self) -> str:
        return self.obs.device.type

    def split(self, flat: Tensor) -> list[Tensor]:
        """A flat vector [P] as tensors shaped like ``params``."""
        parts = flat.split(self.sizes)
        return [part.view(p.shape) for part, p in zip(parts, self.params, strict=True)]

    def net(self, params: list[Tensor]) -> Tensor:
        """Means or logits [N, Z]."""
        h = self.obs
        for i in range(self.maps):
            h = torch.nn.functional.linear(h, params[2 * i], params[2 * i + 1])
            h = torch.tanh(h) if i < self.maps - 1 else h
        return h

    def distribution(self, params: list[Tensor]) -> torch.distributions.Distribution:
        out = self.net(params)
        if self.head == "categorical":
            return torch.distributions.Categorical(logits=out)
        std = params[-1].exp().expand_as(out)
        return torch.distributions.Independent(torch.distributions.Normal(out, std), 1)


class Opponent:
    """One way to solve (F + damping I) x = g. ``solve`` starts at the parameters every time."""

    name = ""

    def __init__(self, setup: Setup, precision: str) -> None:
        self.setup, self.precision = setup, precision

    @staticmethod
    def support(device: str) -> Support:
        """Whether it runs here."""
        return SERVES

    @staticmethod
    def precisions(device: str) -> tuple[str, ...]:
        return ("fp32",)

    def product(self) -> Product:
        """v -> F v + damping v, once the forward has been computed."""
        raise NotImplementedError

    def solve(self, g: Tensor, iterations: int) -> Tensor:
        """x [P] after ``iterations`` of CG; forward and packing are part of the call."""
        return cg(self.product(), g, iterations)

    def timed(self, g: Tensor, iterations: int) -> object:
        """The solve in the opponent's own kind of array: what the clock sees."""
        return self.solve(g, iterations)


def cg(product: Product, g: Tensor, iterations: int) -> Tensor:
    """Plain CG from zero for a fixed number of iterations: no test, hence no wait for a device."""
    x, r, p = torch.zeros_like(g), g, g
    rr = r @ r
    for _ in range(iterations):
        z = product(p)
        alpha = rr / (p @ z)
        x = x + alpha * p
        r = r - alpha * z
        rr_next = r @ r
        p = r + (rr_next / rr) * p
        rr = rr_next
    return x


def flat(tensors: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Whether CUDA matrix products may round their inputs to tf32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = enabled
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
