"""A policy around layers that exist: it shares them, and says what it cannot be made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trpo_fast import Categorical, Gaussian, MLPPolicy
from trpo_fast.policy.flat import flat_params


def test_it_holds_the_layers_themselves() -> None:
    layers = [nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)]
    before = torch.get_rng_state()
    policy = MLPPolicy.of_layers(layers, Gaussian(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert (policy.spec.widths, policy.spec.activation) == ((3, 5, 2), "relu")
    assert policy.follows_spec() and [*policy.net] == layers
    flat_params(policy).fill_(0.25)
    assert all(bool((p == 0.25).all()) for layer in layers for p in layer.parameters())


def test_it_computes_what_the_layers_do() -> None:
    layers = [nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)]
    obs = torch.randn(6, 3)
    found = MLPPolicy.of_layers(layers, Categorical(4))(obs)
    assert torch.equal(
        found.logits, torch.distributions.Categorical(logits=nn.Sequential(*layers)(obs)).logits
    )


def test_one_linear_map_is_a_policy() -> None:
    assert MLPPolicy.of_layers([nn.Linear(3, 2)], Categorical(2)).spec.widths == (3, 2)


@pytest.mark.parametrize(
    "layers",
    [
        [],
        [nn.Linear(3, 2), nn.Tanh()],
        [nn.Linear(3, 5), nn.Linear(5, 2)],
        [nn.Linear(3, 5), nn.LeakyReLU(), nn.Linear(5, 2)],
        [nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2)],
        [nn.Linear(3, 5), nn.Tanh(), nn.Bilinear(5, 5, 2)],
    ],
)
def test_other_layers_are_refused(layers: list[nn.Module]) -> None:
    with pytest.raises(ValueError, match="layers: expected Linear and one of"):
        MLPPolicy.of_layers(layers, Categorical(2))


def test_a_head_of_another_width_departs() -> None:
    policy = MLPPolicy.of_layers([nn.Linear(3, 5)], Categorical(2))
    assert "head" in policy.departure()
