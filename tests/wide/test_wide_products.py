"""Products of wide nets against float64: precisions, heads, activations, ways to choose rows."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import product

import pytest
import torch
from cases import HEADS, Case, poison
from cuda_support import problem
from exactness import RULE, no_worse, relative_error
from wide_support import PRECISIONS, SMALL, Wide, needs_triton

from trpo_fast import MultiCategorical
from trpo_fast.policy.net import ACTIVATIONS

pytestmark = needs_triton

# Halves of bf16 keep 16 bits, tf32 keeps 11; the others have float32's errors.
AT_MOST = {"bf16x3": 1e-5, "tf32": 1e-3}
# float32 by torch is at most this far off where a case does not magnify the rounding of its
# numbers; a case that does magnifies that of fewer bits as much.
FLOAT32 = 2.5e-7
NETS = ((129,), (200, 16), (16, 129, 8), (129,))
ROWS = (7, 33, 129, 299)


def pairs() -> list[tuple[Case, str]]:
    """Every head with every activation; nets, rows, weights, masks and precisions in turn."""
    found = []
    for i, (head, activation) in enumerate(product(HEADS, ACTIVATIONS)):
        case = Case(
            head, NETS[i % 4], activation, ROWS[i // 2 % 4], seed=i, weights=i % 3 == 0,
            masks="categorical" in head and i % 2 == 0,
        )  # fmt: skip
        found.append((case, PRECISIONS[(i + i // 4) % 4]))
    return found


SHAPES = (
    Case("gaussian", (512,), rows=129),
    Case("gaussian", (256, 200), rows=299, weights=True),
    Case("gaussian", (512, 129, 256), "elu", rows=33, obs_dim=70),
    Case("categorical", (200, 129, 256, 129), "silu", rows=201, obs_dim=130),
)


def every() -> list[tuple[Case, str]]:
    """What ``make wide`` runs beside the rest: all of it with all of it, for minutes."""
    if "TRPO_FAST_CAMPAIGN" not in os.environ:
        return []
    nets = ((256,), (200, 129), (129, 256, 64), (130, 16, 140, 129))
    return [
        (Case(h, net, a, 151, weights=True, masks="categorical" in h), p)
        for h, a, net, p in product(HEADS, ACTIVATIONS, nets, PRECISIONS)
    ]


def check(case: Case, precision: str, columns: int | None = None, **options) -> None:
    w = Wide(case, precision=precision, **options)
    ours, single, truth = w.products(w.vector(columns))
    if precision in AT_MOST:
        error = relative_error(ours, truth)
        allowed = AT_MOST[precision] * max(1.0, relative_error(single, truth) / FLOAT32)
        print(f"{case} {precision}: error {error:.2e}, allowed {allowed:.2e}")
        assert error <= allowed
    else:
        no_worse(ours, single, truth, RULE, f"{case} {precision}")


@pytest.mark.parametrize(("case", "precision"), pairs(), ids=str)
def test_heads_and_activations(case, precision):
    check(case, precision)


@pytest.mark.parametrize(
    ("case", "precision"), [(c, p) for c in SHAPES for p in PRECISIONS], ids=str
)
def test_widths_and_depths(case, precision):
    check(case, precision)


@pytest.mark.parametrize(("case", "precision"), every(), ids=str)
def test_everything_with_everything(case, precision):
    check(case, precision)


SEVERAL = Case("gaussian", (130, 40), rows=151, weights=True)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("head", ["gaussian", "multicategorical"])
def test_tiles_of_every_kind(head, precision):
    """Several tiles of rows, widths and sums, and several pieces of rows."""
    case = Case(head, (70,), rows=131, obs_dim=66, weights=True, masks=head != "gaussian")
    check(case, precision, tiles=SMALL)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "options",
    [
        {"fvp_rows": torch.arange(3, 150, 4)},
        {"chunk_rows": 64},
        {"chunk_rows": 20, "fvp_rows": torch.arange(0, 151, 3)},
        {"kl_reduction": "mean", "damping": 0.0},
    ],
    ids=["fvp_rows", "chunk_rows", "both", "mean"],
)
def test_choices_of_rows(options, precision):
    check(SEVERAL, precision, **options)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_several_right_hand_sides(precision):
    check(SEVERAL, precision, columns=3)


@pytest.mark.parametrize("precision", ["fp16x3", "tf32"])
def test_right_hand_sides_have_the_bits_of_each_alone(precision, monkeypatch):
    from trpo_fast.backends.wide import operator

    monkeypatch.setattr(operator, "COLUMNS", 2)
    w = Wide(Case("gaussian", (70,), rows=70), precision=precision, tiles=SMALL)
    v = w.vector(3)
    together = w.kernels.fvp(v)
    for column in (1, 2):
        assert torch.equal(together[column], w.kernels.fvp(v[column]))


def test_outputs_that_no_tile_holds(monkeypatch):
    """More outputs than columns of a tile: the metric is a kernel of its own."""
    few = replace(SMALL, block=32)
    monkeypatch.setitem(HEADS, "many", lambda: MultiCategorical((20, 20)))
    check(Case("many", (40,), rows=40, masks=True), "fp16x3", tiles=few)


def test_a_net_without_hidden_layers():
    check(Case("gaussian", (), rows=33, obs_dim=200), "fp16x3")


def test_padding_may_hold_anything():
    from trpo_fast.backends.wide.operator import WideOperator

    case = Case("gaussian", (129,), rows=40, weights=True)
    w = Wide(case, precision="fp16x3")
    v = w.vector()
    clean = w.kernels.fvp(v)
    dirty = WideOperator(problem(w.policy, poison(w.batch), precision="fp16x3"))
    assert torch.equal(clean, dirty.fvp(v))
    assert torch.equal(clean, w.kernels.fvp(v))


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e30])
def test_sizes_far_beyond_fp16(size):
    """Every tile has a power of two of its own, so that fp16's range limits nothing."""
    w = Wide(Case("gaussian", (129,), rows=33), precision="fp16x3", damping=0.0)
    v = w.vector()
    ours, single, truth = w.products(v * size)
    no_worse(ours / size, single / size, truth / size, RULE, f"v of size {size}")


def test_features_of_very_different_sizes():
    """One tile holds all of them, with one power of two."""
    w = Wide(Case("gaussian", (129,), "relu", rows=33, obs_dim=9), precision="fp16x3")
    sizes = torch.logspace(-4, 4, 9)
    assert w.single.batch.obs.data_ptr() == w.kernels.batch.obs.data_ptr()  # scaled once
    for operator in (w.single, w.exact):
        operator.batch.obs.mul_(sizes.to(operator.batch.obs))
    ours, single, truth = w.products(w.vector())
    assert relative_error(single, truth) < 1e-5
    no_worse(ours, single, truth, RULE, "features from 1e-4 to 1e4")


def test_not_finite_is_not_hidden():
    w = Wide(Case("gaussian", (129,), rows=33), precision="fp16x3")
    v = w.vector()
    v[5] = float("nan")
    assert not torch.isfinite(w.kernels.fvp(v)).all()
