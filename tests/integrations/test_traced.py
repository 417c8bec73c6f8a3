"""Layers found by running code once: they are the code's whole function or nothing is found."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trpo_fast.integrations.traced import layers_of

X = torch.linspace(-1.0, 1.0, 10).view(2, 5)
MAP, ELU, TANH, RELU = nn.Linear, nn.ELU, nn.Tanh, nn.ReLU
ONE, TWO, SAME = nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(5, 5)
BARE = nn.Linear(5, 4, bias=False)
DROP = nn.Dropout(0.5)
TIED = nn.Parameter(torch.zeros(4))
HELD = [ONE, TWO, SAME, BARE, DROP]

FOUND: dict[str, tuple[Callable[[], Tensor], list[type]]] = {
    "one map": (lambda: ONE(X), [MAP]),
    "sequential": (lambda: nn.Sequential(ONE, ELU(), TWO)(X), [MAP, ELU, MAP]),
    "functions": (lambda: F.linear(ONE(X).tanh(), TWO.weight, TWO.bias), [MAP, TANH, MAP]),
    "methods": (lambda: TWO(ONE(X).relu()), [MAP, RELU, MAP]),
    "in place": (lambda: TWO(F.relu(ONE(X), inplace=True)), [MAP, RELU, MAP]),
    "silu": (lambda: TWO(F.silu(ONE(X))), [MAP, nn.SiLU, MAP]),
    "gelu": (lambda: TWO(nn.GELU()(ONE(X))), [MAP, nn.GELU, MAP]),
    "shapes": (
        lambda: TWO(F.elu(ONE(torch.as_tensor(X).flatten(1).view(X.shape)))),
        [MAP, ELU, MAP],
    ),
}
OTHERS: dict[str, Callable[[], Tensor]] = {
    "scaled": lambda: TWO(torch.tanh(ONE(2.0 * X))),
    "squashed at the end": lambda: torch.tanh(ONE(X)) * 2.0,
    "clamped": lambda: ONE(X).clamp(-1.0, 1.0),
    "residual": lambda: X + SAME(X),
    "cut": lambda: TWO(ONE(X)[:, :4]),
    "another shape": lambda: TWO(ONE(X.view(1, 2, 5))),
    "a test of values": lambda: ONE(X) if float(X.sum()) > 9.0 else TWO(torch.tanh(ONE(X))),
    "a test of one value": lambda: ONE(X) if X.tolist()[0][0] > 9.0 else TWO(ONE(X)),
    "through numpy": lambda: ONE(torch.from_numpy(X.numpy())),
    "leaky": lambda: TWO(F.leaky_relu(ONE(X))),
    "elu of another alpha": lambda: TWO(F.elu(ONE(X), 0.5)),
    "elu of another alpha by name": lambda: TWO(F.elu(ONE(X), alpha=0.5)),
    "gelu by tanh": lambda: TWO(F.gelu(ONE(X), approximate="tanh")),
    "dropout": lambda: TWO(DROP(ONE(X))),
    "without a bias": lambda: BARE(X),
    "another bias": lambda: F.linear(X, ONE.weight, TIED),
    "a map of nobody": lambda: nn.Linear(5, 4)(X),
    "half": lambda: TWO(ONE(X).to(torch.float64).to(torch.float32)),
    "nothing of it": lambda: torch.zeros(2, 3),
    "what came before": lambda: (h := ONE(X), torch.tanh(h))[0],
}


@pytest.mark.parametrize("name", FOUND)
def test_a_perceptron_is_found_whatever_it_looks_like(name: str) -> None:
    call, kinds = FOUND[name]
    layers = layers_of(call, X, HELD)
    assert layers is not None and [type(layer) for layer in layers] == kinds
    assert all(layer in HELD for layer in layers if type(layer) is nn.Linear)
    with torch.no_grad():
        torch.testing.assert_close(nn.Sequential(*layers)(X), call(), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("name", OTHERS)
def test_whatever_else_it_does_nothing_is_found(name: str) -> None:
    assert layers_of(OTHERS[name], X, HELD) is None


def test_it_leaves_no_trace() -> None:
    before = torch.get_rng_state()
    layers_of(FOUND["sequential"][0], X, HELD)
    assert torch.equal(torch.get_rng_state(), before) and torch.is_grad_enabled()
    assert all(p.grad is None for p in ONE.parameters())
