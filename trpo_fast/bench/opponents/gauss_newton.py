"""The Gauss-Newton product J' M J v written by hand in PyTorch, activations cached: what a careful
user would write without a compiler. On CUDA also in one graph and under torch.compile, in fp32 and
tf32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...backends.support import SERVES, Support
from .base import Opponent, Product, cg, flat, tf32


class GaussNewton(Opponent):
    name = "gauss_newton"

    @torch.no_grad()
    def product(self) -> Product:
        setup = self.setup
        weights, biases = setup.params[0 : 2 * setup.maps : 2], setup.params[1 : 2 * setup.maps : 2]
        h = [setup.obs]
        for i in range(setup.maps - 1):
            h.append(torch.tanh(torch.addmm(biases[i], h[i], weights[i].t())))
        slopes = [1 - a * a for a in h[1:]]
        scale, log_std_scale = self._metric(h[-1], weights[-1], biases[-1])

        @torch.no_grad()
        def product(v: Tensor) -> Tensor:
            vs = setup.split(v)
            t = torch.addmm(vs[1], h[0], vs[0].t())
            for i in range(1, setup.maps):
                t = t * slopes[i - 1]
                t = torch.addmm(vs[2 * i + 1], h[i], vs[2 * i].t()).addmm_(t, weights[i].t())
            delta = scale(t)
            out: list[Tensor] = [v] * len(vs)
            if log_std_scale:
                out[-1] = log_std_scale * vs[-1]
            for i in range(setup.maps - 1, -1, -1):
                out[2 * i], out[2 * i + 1] = delta.t() @ h[i], delta.sum(0)
                if i:
                    delta = (delta @ weights[i]) * slopes[i - 1]
            return flat(out) + setup.damping * v

        return product

    def _metric(self, h: Tensor, weight: Tensor, bias: Tensor):
        """M / N as a function of the output's tangent, and the metric of log_std (0: none)."""
        rows = h.shape[0]
        if self.setup.head == "gaussian":
            inverse = torch.exp(-2 * self.setup.params[-1]) / rows
            return lambda t: t * inverse, 2.0
        p = torch.softmax(torch.addmm(bias, h, weight.t()), -1)
        p_mean = p / rows
        return lambda t: p_mean * (t - (p * t).sum(1, keepdim=True)), 0.0


class GaussNewtonCompile(GaussNewton):
    """The same, the whole solve one function under torch.compile, which puts it in a CUDA graph."""

    name = "gauss_newton_compile"

    def __init__(self, setup, precision: str) -> None:
        super().__init__(setup, precision)
        mode = "reduce-overhead" if setup.device == "cuda" else "default"
        self._solve = torch.compile(super().solve, mode=mode, dynamic=False)

    @staticmethod
    def support(device: str) -> Support:
        elsewhere = Support("timed on CUDA devices; func_compile is on every one")
        return SERVES if device == "cuda" else elsewhere

    @staticmethod
    def precisions(device: str) -> tuple[str, ...]:
        return ("fp32", "tf32") if device == "cuda" else ("fp32",)

    def solve(self, g: Tensor, iterations: int) -> Tensor:
        with torch.no_grad(), tf32(self.precision == "tf32"):  # compiled code leaves gradients off
            return self._solve(g, iterations)


class GaussNewtonGraph(GaussNewton):
    """The same, the whole solve captured in one CUDA graph: no launch cost, no Python."""

    name = "gauss_newton_graph"

    def __init__(self, setup, precision: str) -> None:
        super().__init__(setup, precision)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    @staticmethod
    def support(device: str) -> Support:
        return SERVES if device == "cuda" else Support("needs a CUDA device")

    @staticmethod
    def precisions(device: str) -> tuple[str, ...]:
        return ("fp32", "tf32")

    def solve(self, g: Tensor, iterations: int) -> Tensor:
        if iterations not in self._graphs:
            self._graphs[iterations] = self._capture(g, iterations)
        graph, g_in, x = self._graphs[iterations]
        g_in.copy_(g)
        graph.replay()
        return x

    def _capture(self, g: Tensor, iterations: int):
        g_in = g.clone()
        with tf32(self.precision == "tf32"):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    cg(self.product(), g_in, iterations)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                x = cg(self.product(), g_in, iterations)
        return graph, g_in, x
