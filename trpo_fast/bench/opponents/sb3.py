"""sb3-contrib's solve: its own code where it is installed, a replica of it where it is not.

TRPO.train() differentiates the KL once per parameter tensor with the graph kept, then
differentiates (gradient . v) for every product; its CG starts at a small random vector (one more
product) and reads the residual on the host in every iteration. The KL here is summed over action
dimensions, so that every contender solves the same system; the cost is the same.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from ...backends.support import SERVES, Support
from .base import Opponent, Product, Setup, flat


def make_policy(setup: Setup):
    """sb3's ActorCriticPolicy with the weights of ``setup``, and its actor tensors in our order."""
    from gymnasium import spaces
    from stable_baselines3.common.policies import ActorCriticPolicy

    widths = [p.shape[0] for p in setup.params[0 : 2 * setup.maps : 2]]
    obs_space = spaces.Box(-np.inf, np.inf, (setup.obs.shape[1],), np.float32)
    if setup.head == "categorical":
        action_space = spaces.Discrete(widths[-1])
    else:
        action_space = spaces.Box(-1.0, 1.0, (widths[-1],), np.float32)
    policy = ActorCriticPolicy(
        obs_space,
        action_space,
        lambda _: 1e-3,
        net_arch={"pi": widths[:-1], "vf": widths[:-1]},
        activation_fn=torch.nn.Tanh,
    ).to(setup.obs.device, setup.obs.dtype)
    linears = [m for m in policy.mlp_extractor.policy_net if isinstance(m, torch.nn.Linear)]
    actor = [p for m in (*linears, policy.action_net) for p in (m.weight, m.bias)]
    actor += [policy.log_std] if setup.head == "gaussian" else []
    with torch.no_grad():
        for mine, given in zip(actor, setup.params, strict=True):
            mine.copy_(given)
    return policy, actor


class Sb3(Opponent):
    """The installed sb3_contrib: its policy, ``_compute_actor_grad``, ``hessian_vector_product``
    and ``conjugate_gradient_solver``.
    """

    name = "sb3"

    def __init__(self, setup: Setup, precision: str) -> None:
        super().__init__(setup, precision)
        self.policy, actor = make_policy(setup)
        order = {id(p): i for i, p in enumerate(actor)}
        named = [p for name, p in self.policy.named_parameters() if "value" not in name]
        # Where each of sb3's actor tensors (its own order) lies in our flat vector.
        self.theirs = [order[id(p)] for p in named]

    @staticmethod
    def support(device: str) -> Support:
        for package in ("sb3_contrib", "stable_baselines3", "gymnasium"):
            if importlib.util.find_spec(package) is None:
                return Support(f"{package} is not installed")
        return SERVES

    def _permute(self, v: Tensor) -> Tensor:
        parts = v.split(self.setup.sizes)
        return torch.cat([parts[i] for i in self.theirs])

    def _restore(self, v: Tensor) -> Tensor:
        sizes = [self.setup.sizes[i] for i in self.theirs]
        parts = dict(zip(self.theirs, v.split(sizes), strict=True))
        return torch.cat([parts[i] for i in range(len(sizes))])

    def _start(self, g: Tensor) -> tuple[Tensor, Product]:
        """Their gradient and product at the parameters. The objective is theta . g, whose gradient
        is g at no cost.
        """
        from sb3_contrib import TRPO

        with torch.no_grad():
            old = self.policy.get_distribution(self.setup.obs).distribution
        new = self.policy.get_distribution(self.setup.obs).distribution
        kl = torch.distributions.kl_divergence(new, old)
        kl = kl.sum(1).mean() if kl.ndim == 2 else kl.mean()
        actor = dict.fromkeys(p for n, p in self.policy.named_parameters() if "value" not in n)
        parts = self.setup.split(g)
        pairs = zip(actor, self.theirs, strict=True)
        objective = sum((p * parts[i]).sum() for p, i in pairs)
        trpo = SimpleNamespace(policy=self.policy, cg_damping=self.setup.damping)
        params, gradient, grad_kl, _ = TRPO._compute_actor_grad(trpo, kl, objective)
        return gradient, partial(TRPO.hessian_vector_product, trpo, params, grad_kl)

    def product(self) -> Product:
        _, theirs = self._start(torch.zeros_like(flat(self.setup.params)))
        return lambda v: self._restore(theirs(self._permute(v)))

    def solve(self, g: Tensor, iterations: int) -> Tensor:
        from sb3_contrib.common.utils import conjugate_gradient_solver

        gradient, product = self._start(g)
        return self._restore(conjugate_gradient_solver(product, gradient, max_iter=iterations))


class Sb3Replica(Opponent):
    """The same sequence of operations on plain tensors, for machines without sb3_contrib."""

    name = "sb3_replica"

    def product(self) -> Product:
        setup = self.setup
        params = [p.detach().requires_grad_() for p in setup.params]
        with torch.no_grad():
            old = setup.distribution(setup.params)
        kl = torch.distributions.kl_divergence(setup.distribution(params), old).mean()
        gradient = flat(
            [torch.autograd.grad(kl, p, create_graph=True, retain_graph=True)[0] for p in params]
        )

        def product(v: Tensor) -> Tensor:
            product_sum = (gradient * v).sum()
            return flat(torch.autograd.grad(product_sum, params, retain_graph=True)) + (
                setup.damping * v
            )

        return product

    def solve(self, g: Tensor, iterations: int) -> Tensor:
        return self.search_direction(self.product(), g, iterations)

    @staticmethod
    def search_direction(product: Product, g: Tensor, iterations: int) -> Tensor:
        """sb3_contrib's conjugate_gradient_solver, step by step."""
        x = 1e-4 * torch.randn_like(g)
        r = g - product(x)
        rr = torch.matmul(r, r)
        if rr < 1e-10:
            return x
        p = r.clone()
        for i in range(iterations):
            z = product(p)
            alpha = rr / p.dot(z)
            x += alpha * p
            if i == iterations - 1:
                break
            r -= alpha * z
            rr_next = torch.matmul(r, r)
            if rr_next < 1e-10:
                break
            p = r + (rr_next / rr) * p
            rr = rr_next
        return x
