"""Distributions that no stock head serves, registered or not, and modules that return them."""

from __future__ import annotations

import torch
from module_cases import Custom
from torch.distributions import (
    Categorical,
    Gamma,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)
from torch.distributions.transforms import TanhTransform

from trpo_fast import Batch, register_head, unregister_head


def normal(z):
    root = torch.stack([z[:, 2].exp(), torch.zeros_like(z[:, 2]), z[:, 3], z[:, 2].exp()], -1)
    return MultivariateNormal(z[:, :2], scale_tril=root.view(-1, 2, 2))


def mixture(z):
    parts = Independent(Normal(z.view(-1, 2, 2), torch.full((len(z), 2, 2), 0.7).to(z)), 1)
    return MixtureSameFamily(Categorical(logits=0.3 * z[:, :2]), parts)


def squashed(z):
    return TransformedDistribution(
        Independent(Normal(z[:, :2], z[:, 2:].exp()), 1), [TanhTransform()]
    )


def tanh_normal(loc, scale):
    return TransformedDistribution(Independent(Normal(loc, scale), 1), [TanhTransform()])


def of_parts(logits, loc, scale):
    return MixtureSameFamily(Categorical(logits=logits), Independent(Normal(loc, scale), 1))


def parts_of(found):
    base = found.component_distribution.base_dist
    return found.mixture_distribution.logits, base.loc, base.scale


MAKERS = {"normal": normal, "mixture": mixture, "squashed": squashed}
KINDS = {
    "normal": MultivariateNormal,
    "mixture": MixtureSameFamily,
    "squashed": TransformedDistribution,
}


def register(name, **more):
    if name == "normal":
        register_head(MultivariateNormal, params=("loc", "scale_tril"), **more)
    elif name == "mixture":
        sampled = {"kl": "sampled", "samples": 16, **more}
        register_head(MixtureSameFamily, params=parts_of, distribution=of_parts, **sampled)
    else:
        register_head(
            TransformedDistribution,
            params=lambda d: (d.base_dist.base_dist.loc, d.base_dist.base_dist.scale),
            distribution=tanh_normal,
            **more,
        )


def unregister_all():
    for kind in (*KINDS.values(), Gamma):
        unregister_head(kind)


def setup(name, rows=13, dtype=torch.float64):
    torch.manual_seed(0)
    maker = MAKERS[name] if isinstance(name, str) else name
    policy = Custom(maker).to(dtype)
    obs = torch.randn(rows, 4, dtype=dtype)
    return policy, obs


def a_batch(policy, obs):
    return Batch(obs, policy(obs).sample(), torch.randn(len(obs), dtype=obs.dtype))
