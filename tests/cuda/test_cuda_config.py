"""config.h: shapes and device limits to path, tile, shared memory and grid, without a GPU."""

from __future__ import annotations

import json
import re

import pytest
from cuda_support import kernels  # noqa: F401
from sass import check

from trpo_fast.backends import cuda_plan
from trpo_fast.cli import main as cli
from trpo_fast.policy.spec import NetSpec

A100 = {"multiprocessors": 108, "shared_bytes": 163 * 1024, "arch": 80}
H200 = {"multiprocessors": 132, "shared_bytes": 227 * 1024, "arch": 90}
B200 = {"multiprocessors": 148, "shared_bytes": 227 * 1024, "arch": 100}
DEVICES = (A100, H200, B200)

C1 = NetSpec((11, 64, 64, 3), "tanh", "gaussian"), 2048
C2 = NetSpec((17, 64, 64, 6), "tanh", "gaussian"), 25000
WIDE = NetSpec((17, 128, 128, 6), "tanh", "gaussian"), 25000
HUMANOID = NetSpec((348, 128, 128, 17), "tanh", "gaussian"), 25000
NETS = {
    "C1": C1,
    "C2": C2,
    "cartpole": (NetSpec((4, 64, 64, 2), "tanh", "categorical", (2,)), 2048),
}
SHAPES = (C1, C2, WIDE, HUMANOID, (NetSpec((1, 1), "relu", "categorical", (1,)), 1))

# Net, device, and what is expected of the plan.
TABLE = [
    (C1, A100, {"path": "resident", "tile_rows": 16, "grid": 108, "resident_tiles": 2}),
    (C1, H200, {"path": "resident", "tile_rows": 16, "grid": 128, "resident_tiles": 1}),
    (C1, B200, {"path": "resident", "tile_rows": 16, "grid": 128, "cached": False}),
    (C2, H200, {"path": "resident", "tile_rows": 64, "resident_tiles": 3, "cached": False}),
    (C2, A100, {"path": "resident", "register_tiles": 1, "cached": True}),
    (WIDE, H200, {"path": "resident", "register_tiles": 3, "cached": True}),
    (HUMANOID, H200, {"path": "streamed", "tile_rows": 16, "grid": 132}),
    (HUMANOID, A100, {"path": "streamed", "tile_rows": 16, "grid": 108}),
]
# The same in split precision, which plans by itself.
SPLIT_TABLE = [
    (C1, H200, {"path": "resident", "tile_rows": 16, "grid": 128, "residual_on_chip": True}),
    (C2, H200, {"path": "resident", "tile_rows": 64, "resident_tiles": 3, "cached": False}),
    (C2, A100, {"path": "resident", "cached": True}),
    (WIDE, H200, {"path": "resident", "cached": True}),
    (WIDE, A100, {"path": "none", "refusal": True}),
    (HUMANOID, H200, {"path": "none", "refusal": True}),
]


def plan(shape, device, **options):
    return cuda_plan.plan(*shape, device, **options)


@pytest.mark.parametrize(("shape", "device", "expected"), TABLE, ids=str)
def test_plan(shape, device, expected):
    got = plan(shape, device)
    print(got)
    assert got | expected == got and got["refusal"] is None


@pytest.mark.parametrize(("shape", "device", "expected"), SPLIT_TABLE, ids=str)
def test_plan_in_split_precision(shape, device, expected):
    got = plan(shape, device, precision="fp16x3")
    print(got)
    assert got["precision"] == "fp16x3"
    refusal = got.pop("refusal")
    got["refusal"] = refusal is not None
    assert got | expected == got
    assert refusal is None or refusal.endswith("use precision='fp32'")


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: f"sm_{d['arch']}")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rows", [1, 33, 10**4, 10**6])
@pytest.mark.parametrize("precision", ["fp32", "fp16x3"])
def test_every_plan_is_possible(shape, device, rows, precision):
    got = plan((shape[0], rows), device, precision=precision)
    if got["path"] == "none" and precision == "fp16x3":
        assert "use precision='fp32'" in got["refusal"] and shape in (WIDE, HUMANOID)
        return
    assert got["path"] != "none" and 1 <= got["grid"] <= device["multiprocessors"]
    assert got["shared_bytes"] <= device["shared_bytes"]
    assert got["grid"] * got["resident_tiles"] >= got["tiles"] or got["cached"]
    assert (got["tiles"] - 1) * got["tile_rows"] < rows <= got["tiles"] * got["tile_rows"]


def test_chunks_keep_scratch_from_growing_with_the_rows():
    sizes = [plan((C1[0], n), H200, chunk_rows=4096)["scratch_bytes"] for n in (10**5, 10**6)]
    assert sizes[0] == sizes[1] < 16 * 2**20
    assert plan((C1[0], 10**6), H200)["scratch_bytes"] < 2**30


@pytest.mark.parametrize(
    ("widths", "words"),
    [((17, 129, 3), "up to 128 wide"), ((9000, 64, 3), "does not fit in a block's shared memory")],
)
def test_refusals_are_sentences(widths, words):
    got = plan((NetSpec(widths, "tanh", "gaussian"), 100), H200)
    assert got["path"] == "none" and words in got["refusal"]


@pytest.mark.parametrize("precision", ["fp32", "fp16x3"])
def test_predicted_times_grow_with_rows_and_products(precision):
    def us(shape, rows, products=10):
        return cuda_plan.solve_us(shape[0], rows, H200, precision=precision, products=products)

    for shape in NETS.values():
        times = [us(shape, rows) for rows in (100, 10**4, 10**5, 10**6)]
        assert times == sorted(times) and times[0] > 100 and times[3] > 5 * times[1]
        ten, twenty, forty = (us(shape, 10**4, k) for k in (10, 20, 40))
        assert forty - twenty == pytest.approx(2 * (twenty - ten))
    assert us(HUMANOID, 25000) is None if precision == "fp16x3" else us(HUMANOID, 25000) > 1000


@pytest.mark.parametrize("precision", ["fp32", "fp16x3"])
@pytest.mark.parametrize("case", NETS)
def test_predictions_are_those_of_the_model(case, precision):
    """What `make check-cuda` recorded, whose model reads the compiled kernels."""
    recorded = json.loads(check.BUDGET.read_text())[f"{case} {precision}"]
    us = cuda_plan.solve_us(*NETS[case], H200, precision=precision)
    assert us == pytest.approx(recorded["solve"], rel=check.AGREEMENT)


def test_a_plan_is_made_once_for_a_shape():
    options = {"rows": 1234, "precision": "fp16x3"}
    first, again = (cuda_plan.cached_plan(C1[0], tuple(H200.items()), **options) for _ in range(2))
    assert first is again


@pytest.mark.parametrize("precision", ["fp32", "fp16x3"])
@pytest.mark.parametrize("case", ["cartpole", "C1", "C2"])
def test_doctor_says_how_a_case_runs(case, precision, capsys):
    assert cli.main(["doctor", "--case", case, "--precision", precision]) == 0
    text = capsys.readouterr().out
    assert f"serve this in {precision}: one launch of" in text and "{" not in text
    assert "on a CUDA device  backend='auto' takes the CUDA kernels, which keep" in text
    us = cuda_plan.solve_us(*NETS[case], H200, precision=precision)
    assert f"about {us:.0f} us by the CUDA kernels" in text and "not measured" in text
    assert re.search(r"about \d+ us by the Triton kernels for wide nets, not used for", text)
    assert (" by 'reference' in a CUDA graph" in text) == (precision == "fp32")


@pytest.mark.parametrize("case", ["C3", "C4", "C5"])
def test_doctor_says_what_runs_where_the_kernels_refuse(case, capsys):
    assert cli.main(["doctor", "--case", case]) == 0
    text = capsys.readouterr().out
    assert "CUDA kernels      do not serve this: " in text and "128 wide" in text
    assert "on a CUDA device  backend='auto' takes the Triton kernels for wide nets" in text
    assert ", as the CUDA kernels do not serve it\n" in text
    assert re.search(r"about [\d.]+ ms by the Triton kernels for wide nets\n", text)
    assert "on the CPU        backend='auto' takes the C++ kernels" in text
    assert cli.main(["doctor", "--case", case, "--precision", "tf32"]) == 0
    assert "on the CPU        nothing serves precision 'tf32'; 'fp32' is" in capsys.readouterr().out
    assert cli.main(["doctor", "--case", case, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["auto_on_cuda"] == "wide"
    assert cli.main(["doctor", "--case", "C1", "--precision", "tf32"]) == 0
    assert "nothing serves precision 'tf32'" in capsys.readouterr().out
