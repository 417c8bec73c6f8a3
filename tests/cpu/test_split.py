"""Split precision on AMX tiles: bf16x6 is as exact as float32, bf16x3 within 1e-5, and both keep
what the CPU core promises about bits, weights and failures.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, replace

import pytest
import torch
from cases import Case, few, poison, random_vector, thinned, weighted
from cpu_cases import (
    all_shapes,
    in_double,
    native,
    operator_of,
    single,
    update_case,
    update_cases,
)
from exactness import SOLUTION, no_worse, relative_error

from trpo_fast import BackendUnavailable, FisherOperator, flat_params, trpo_update
from trpo_fast._base import extension
from trpo_fast.core.problem import CgConfig

CORE = extension.module()
HAS_TILES = CORE is not None and CORE.detected_isa() == "amx"
needs_tiles = pytest.mark.skipif(not HAS_TILES, reason="this CPU has no AMX tiles")
every_precision = pytest.mark.parametrize("precision", ["bf16x3", "bf16x6"])
# bf16x3 drops the products of the lowest parts, 2^-16 of a product; few rows may cancel.
BF16X3, BF16X3_FEW_ROWS = 1e-5, 1e-4
# Of a gradient, beside fp32's own: only what multiplies with deltas is coarse, in both layers.
BF16X3_GRADIENT = 2e-5
# A power of ten is not exact in float32, and bf16x3 rounds what comes of it another way.
SCALED = 1e-4
OPTIONS = [{}, {"fvp_rows": 20}, {"chunk_rows": 40}]


def close(precision: str, ours, theirs, truth, rows: int) -> None:
    if precision == "bf16x6":
        no_worse(ours, theirs, truth)
    else:
        assert relative_error(ours, truth) < (BF16X3 if rows >= 8 else BF16X3_FEW_ROWS)


@needs_tiles
@every_precision
@pytest.mark.parametrize("case", all_shapes(), ids=str)
def test_fvp(case, precision):
    policy, batch = single(case)
    v = random_vector(policy, columns=2).T.contiguous()
    ours = native(policy, batch, precision=precision).fvp(v)
    theirs = operator_of("reference", policy, batch).fvp(v)
    truth = operator_of("reference", *in_double(policy, batch)).fvp(v.double())
    close(precision, ours, theirs, truth, case.rows)


@needs_tiles
@every_precision
@pytest.mark.parametrize("case", thinned(all_shapes(), 5), ids=str)
def test_gradient_and_evaluate(case, precision):
    """The net itself runs in full: only what multiplies with deltas may be coarse."""
    policy, batch = single(case)
    theta = flat_params(policy) + 0.01 * random_vector(policy)
    full, split = native(policy, batch), native(policy, batch, precision=precision)
    assert relative_error(split.gradient()[0], full.gradient()[0]) < (
        BF16X3_GRADIENT if case.rows >= 8 else BF16X3_FEW_ROWS
    )
    ours, theirs = asdict(split.evaluate(theta)), asdict(full.evaluate(theta))
    for name, value in theirs.items():
        assert float(ours[name]) == pytest.approx(float(value), rel=2e-4, abs=2e-6), name


@needs_tiles
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("case", update_cases(), ids=str)
def test_solve_is_as_exact_as_float32(case, options):
    policy, batch = single(case)
    g = random_vector(policy)
    ours = native(policy, batch, precision="bf16x6", **options).solve(g, CgConfig(10))
    theirs = operator_of("reference", policy, batch, **options).solve(g, CgConfig(10))
    double = in_double(policy, batch)
    truth = operator_of("reference", *double, **options).solve(g.double(), CgConfig(10))
    no_worse(ours.x, theirs.x, truth.x, SOLUTION, "x")
    no_worse(ours.quad, theirs.quad, truth.quad, SOLUTION, "quad")


@needs_tiles
@every_precision
@pytest.mark.parametrize("hidden", [(64, 64), (256, 256)], ids=str)
def test_update_takes_the_same_step(hidden, precision):
    case = Case("gaussian", hidden, "tanh", 600, obs_dim=60)
    infos = []
    for chosen in ("fp32", precision):
        policy, batch = single(case)
        infos.append(trpo_update(policy, batch, backend="cpu", precision=chosen))
    full, split = infos
    assert split.accepted and full.accepted
    assert split.kl == pytest.approx(full.kl, rel=1e-4)
    assert split.backtracks == full.backtracks


@needs_tiles
@every_precision
def test_bits_do_not_depend_on_threads(precision):
    policy, batch = single(Case("categorical", (96, 33), "silu", 700, obs_dim=17))
    v, before, found = random_vector(policy), torch.get_num_threads(), []
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        found.append(native(policy, batch, precision=precision).solve(v, CgConfig(5)).x)
    torch.set_num_threads(before)
    assert all(torch.equal(x, found[0]) for x in found)


@needs_tiles
@every_precision
@pytest.mark.parametrize("case", [c for c in few() if c.rows > 4], ids=str)
def test_rows_without_weight_are_never_read(case, precision):
    policy, batch = single(replace(case, weights=True))
    weights = batch.weights.clone()
    weights[::3] = 0.0
    clean = replace(batch, weights=weights)
    v = random_vector(policy)
    found = [native(policy, b, precision=precision).fvp(v) for b in (clean, poison(clean))]
    assert torch.equal(*found)


@needs_tiles
@every_precision
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_solve_is_linear_in_the_scale_of_g(scale, precision):
    policy, batch = single(update_case("gaussian"))
    operator, g = native(policy, batch, precision=precision), random_vector(policy)
    scaled = operator.solve((g.double() * scale).float(), CgConfig(10))
    assert relative_error(scaled.x.double() / scale, operator.solve(g, CgConfig(10)).x) < SCALED


@needs_tiles
@every_precision
def test_non_finite_rows_move_nothing(precision):
    policy, batch = single(update_case("gaussian"))
    before = copy.deepcopy(policy)
    batch.obs[3, 0] = float("nan")
    with pytest.raises(ValueError, match="obs"):
        trpo_update(policy, batch, backend="cpu", precision=precision)
    assert torch.equal(flat_params(policy), flat_params(before))


@pytest.mark.skipif(CORE is None, reason="no native code")
@every_precision
def test_refused_without_tiles(precision, monkeypatch):
    monkeypatch.setenv("TRPO_FAST_ISA", "avx2" if HAS_TILES else CORE.detected_isa())
    policy, batch = single(weighted("gaussian"))
    with pytest.raises(BackendUnavailable, match=f"{precision}.*AMX"):
        FisherOperator(policy, batch.obs, backend="cpu", precision=precision)


@needs_tiles
@every_precision
@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, -1], ids=["usual", "GPU's", "all ones"])
def test_every_nan_stays_one(precision, bits):
    """Rounded to 16 bits, one with all bits set would be zero."""
    policy, batch = single(weighted("gaussian"))
    v = random_vector(policy)
    v[3:4].view(torch.int32).fill_(bits)
    ours, plain = (
        FisherOperator(policy, batch.obs, precision=p, sync=False) @ v for p in (precision, "fp32")
    )
    assert torch.equal(ours.isnan(), plain.isnan()) and plain.isnan().sum() > 1
