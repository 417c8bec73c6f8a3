"""torch.func's jvp and vjp under torch.compile: what PyTorch offers without writing derivatives."""

from __future__ import annotations

import shutil

import torch
from torch import Tensor

from ...backends.support import SERVES, Support
from .base import Opponent, Product, cg


class FuncCompile(Opponent):
    """The whole solve is one compiled function; on CUDA it runs in a CUDA graph."""

    name = "func_compile"

    def __init__(self, setup, precision: str) -> None:
        super().__init__(setup, precision)
        mode = "reduce-overhead" if setup.device == "cuda" else "default"
        self._theta = torch.cat([p.reshape(-1) for p in setup.params])
        torch._dynamo.reset()
        self._solve = torch.compile(self._plain_solve, mode=mode, dynamic=False)

    @staticmethod
    def support(device: str) -> Support:
        if device == "cpu" and not (shutil.which("c++") or shutil.which("g++")):
            return Support("torch.compile needs a C++ compiler on a CPU")
        return SERVES

    def _outputs(self, theta: Tensor) -> tuple[Tensor, ...]:
        """Means and log_std, or logits: what the metric is taken of."""
        params = self.setup.split(theta)
        out = self.setup.net(params)
        return (out, params[-1]) if self.setup.head == "gaussian" else (out,)

    def product(self) -> Product:
        setup, theta = self.setup, self._theta
        out, pullback = torch.func.vjp(self._outputs, theta)
        rows = setup.obs.shape[0]

        def product(v: Tensor) -> Tensor:
            _, tangent = torch.func.jvp(self._outputs, (theta,), (v,))
            if setup.head == "gaussian":
                delta = (tangent[0] * torch.exp(-2 * out[1]) / rows, 2 * tangent[1])
            else:
                p = torch.softmax(out[0], -1)
                pt = p * tangent[0]
                delta = ((pt - p * pt.sum(1, keepdim=True)) / rows,)
            return pullback(delta)[0] + setup.damping * v

        return product

    def _plain_solve(self, g: Tensor, iterations: int) -> Tensor:
        return cg(self.product(), g, iterations)

    def solve(self, g: Tensor, iterations: int) -> Tensor:
        return self._solve(g, iterations)
