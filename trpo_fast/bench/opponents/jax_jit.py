"""JAX: linearize once, transpose it, CG as fori_loop, all in one jit."""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import torch
from torch import Tensor

from ...backends.support import SERVES, Support
from .base import Opponent, Product


class JaxJit(Opponent):
    """Precision "fp32" asks for full float32 products; "default" lets XLA choose (tf32 on CUDA)."""

    name = "jax_jit"

    def __init__(self, setup, precision: str) -> None:
        super().__init__(setup, precision)
        # XLA sizes its thread pool when it starts and reads this name.
        os.environ.setdefault("NPROC", str(torch.get_num_threads()))
        import jax
        import jax.numpy as jnp

        self._jax, self._jnp = jax, jnp
        self._obs = jnp.asarray(setup.obs.cpu().numpy())
        self._theta = jnp.asarray(
            np.concatenate([p.cpu().numpy().reshape(-1) for p in setup.params])
        )
        self._matmul = "highest" if precision == "fp32" else "default"
        self._g: tuple[Tensor, object] | None = None
        self._solve = jax.jit(self._solve_traced, static_argnums=2)
        self._product = jax.jit(lambda theta, v: self._product_traced(theta)(v))

    @staticmethod
    def support(device: str) -> Support:
        if importlib.util.find_spec("jax") is None:
            return Support("jax is not installed")
        if device == "cuda":
            import jax

            if jax.default_backend() != "gpu":
                return Support("this jax has no CUDA support")
        return SERVES

    @staticmethod
    def precisions(device: str) -> tuple[str, ...]:
        return ("fp32", "default") if device == "cuda" else ("fp32",)

    def _net(self, theta):
        """Means and log_std, or logits alone."""
        jnp, params, offset = self._jnp, [], 0
        for p in self.setup.params:
            params.append(theta[offset : offset + p.numel()].reshape(p.shape))
            offset += p.numel()
        h = self._obs
        for i in range(self.setup.maps):
            h = jnp.matmul(h, params[2 * i].T, precision=self._matmul) + params[2 * i + 1]
            h = jnp.tanh(h) if i < self.setup.maps - 1 else h
        return (h, params[-1]) if self.setup.head == "gaussian" else (h,)

    def _product_traced(self, theta):
        jax, jnp = self._jax, self._jnp
        out, jvp = jax.linearize(self._net, theta)
        vjp = jax.linear_transpose(jvp, theta)
        rows, damping = self._obs.shape[0], self.setup.damping

        def metric(t):
            if self.setup.head == "gaussian":
                return t[0] * jnp.exp(-2 * out[1]) / rows, 2 * t[1]
            p = jax.nn.softmax(out[0], -1)
            pt = p * t[0]
            return ((pt - p * pt.sum(1, keepdims=True)) / rows,)

        return lambda v: vjp(metric(jvp(v)))[0] + damping * v

    def _solve_traced(self, theta, g, iterations: int):
        product = self._product_traced(theta)
        jnp = self._jnp

        def body(_, state):
            x, r, p, rr = state
            z = product(p)
            alpha = rr / (p @ z)
            r = r - alpha * z
            rr_next = r @ r
            return x + alpha * p, r, r + rr_next / rr * p, rr_next

        start = (jnp.zeros_like(g), g, g, g @ g)
        return self._jax.lax.fori_loop(0, iterations, body, start)[0]

    def _device_array(self, g: Tensor):
        """g on JAX's side; moved once, since no opponent pays for another framework's memory."""
        if self._g is None or self._g[0] is not g:
            self._g = (g, self._jnp.asarray(g.detach().cpu().numpy()))
        return self._g[1]

    def product(self) -> Product:
        def product(v: Tensor) -> Tensor:
            return self._back(self._product(self._theta, self._device_array(v)))

        return product

    def timed(self, g: Tensor, iterations: int):
        return self._solve(self._theta, self._device_array(g), iterations).block_until_ready()

    def solve(self, g: Tensor, iterations: int) -> Tensor:
        return self._back(self.timed(g, iterations))

    def _back(self, value) -> Tensor:
        return torch.from_numpy(np.array(value)).to(self.setup.obs.device)
