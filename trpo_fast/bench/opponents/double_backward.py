"""Double backward with the graph of the KL's gradient kept across CG: the better form of what
PyTorch libraries do (tianshou, garage), without their host synchronisation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Opponent, Product, flat


class DoubleBackward(Opponent):
    name = "double_backward"

    def product(self) -> Product:
        setup = self.setup
        params = [p.detach().requires_grad_() for p in setup.params]
        new = setup.distribution(params)
        with torch.no_grad():
            old = setup.distribution(setup.params)
        kl = torch.distributions.kl_divergence(old, new).mean()
        gradient = flat(torch.autograd.grad(kl, params, create_graph=True))

        def product(v: Tensor) -> Tensor:
            parts = torch.autograd.grad(gradient @ v, params, retain_graph=True)
            return flat(parts) + setup.damping * v

        return product
