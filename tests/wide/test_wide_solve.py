"""Conjugate gradient by kernels: what ``core.cg.cg`` finds and decides, on a dense matrix."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cuda_support import DEVICE
from exactness import SOLUTION, no_worse
from torch import Tensor
from wide_support import SMALL, needs_triton

from trpo_fast.core.cg import CgResult, cg
from trpo_fast.core.problem import CgConfig

pytestmark = needs_triton
SIZE = 37


def matrix(seed: int = 0, smallest: float = 0.1) -> Tensor:
    """Symmetric, with eigenvalues from ``smallest`` to 10."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64))
    return q @ torch.diag(torch.linspace(smallest, 10.0, SIZE, dtype=torch.float64)) @ q.T


def both(a: Tensor, g: Tensor, config: CgConfig, vector: int = 64) -> tuple[CgResult, ...]:
    """The kernels' result, float32's and float64's; g [K, P]."""
    from trpo_fast.backends.wide.solve import share_curvature, solved

    single = a.float().to(DEVICE)

    def product(v: Tensor) -> Tensor:
        return v @ single

    given = g.float().to(DEVICE)
    tiles = replace(SMALL, vector=vector)

    def times(p: Tensor, curvatures: Tensor) -> Tensor:
        a_p = product(p)
        share_curvature(p, a_p, curvatures, tiles)
        return a_p

    ours = solved(times, given, config, tiles)
    options = (config.iterations, config.tol, config.gain_tol)
    return ours, cg(product, given, *options), cg(lambda v: v @ a, g.double(), *options)


def sides(count: int) -> Tensor:
    return torch.randn(count, SIZE, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("config", "vector"),
    [
        (CgConfig(3), 16),
        (CgConfig(8, tol=0.3), 64),
        (CgConfig(9, gain_tol=0.05), 64),
        (CgConfig(1), 16),
    ],
    ids=["few", "tol", "gain", "one"],
)
def test_what_it_finds_and_decides(config, vector):
    ours, single, truth = both(matrix(), sides(3), config, vector)
    no_worse(ours.x, single.x, truth.x, SOLUTION)
    assert torch.equal(ours.iterations, single.iterations)
    for name in ("quad", "residual_norm", "first_curvature", "linear_gain"):
        torch.testing.assert_close(getattr(ours, name), getattr(single, name), rtol=1e-4, atol=1e-7)
    assert not ours.restarts.any()


def test_many_rounds_of_few_programs(monkeypatch):
    from trpo_fast.backends.wide import tiles

    monkeypatch.setattr(tiles, "MOST_PROGRAMS", 2)
    ours, single, truth = both(matrix(), sides(2), CgConfig(2), vector=8)
    no_worse(ours.x, single.x, truth.x, SOLUTION)


def test_a_zero_side_and_one_that_converges_do_not_disturb_others():
    a = torch.diag(torch.linspace(1.0, 2.0, SIZE, dtype=torch.float64))
    g = sides(3)
    g[0] = 0.0
    g[1] = 0.0
    g[1, 4] = 3.0  # an eigenvector: solved at once
    ours, single, _ = both(a, g, CgConfig(4))
    assert ours.iterations.tolist() == single.iterations.tolist() == [0, 1, 4]
    assert not ours.x[0].any() and torch.isfinite(ours.x).all()
    torch.testing.assert_close(ours.x, single.x, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("smallest", [-3.0, float("nan")])
def test_curvature_that_is_not_positive_ends_it(smallest):
    a = matrix(1, smallest) if smallest == smallest else matrix(1) * smallest
    ours, single, _ = both(-a if smallest < 0 else a, sides(1), CgConfig(3))
    assert torch.equal(ours.iterations, single.iterations)
    assert torch.equal(ours.x, single.x) and (ours.iterations == 0).all()
    assert not (ours.first_curvature > 0).any()


def test_later_curvature_lets_x_stand():
    a = matrix(2, smallest=-0.5)
    ours, single, _ = both(a, sides(2), CgConfig(14))
    assert torch.equal(ours.iterations, single.iterations)
    assert (ours.iterations < 14).any()
    torch.testing.assert_close(ours.x, single.x, rtol=1e-3, atol=1e-4)
