"""The benchmarks compute what they say: opponents against float64, flops against a counter, turns,
neighbours that end, rows with every column.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trpo_fast import BackendUnavailable, FisherOperator
from trpo_fast.bench import CASES, Contender, make_workload, measure, opponents
from trpo_fast.bench import cli as bench_cli
from trpo_fast.bench.gain import best, gain
from trpo_fast.bench.harness import busy_processes
from trpo_fast.bench.report import Row, machine_name, read_json, table
from trpo_fast.bench.suite import relative_error
from trpo_fast.bench.suites import GROUPS, SUITES
from trpo_fast.cli.main import main

SMALL = ("tiny", "cartpole", "C1")
KEYS = {
    "suite",
    "case",
    "n",
    "p",
    "k",
    "backend",
    "precision",
    "threads",
    "median_us",
    "rel_err",
    "flops",
    "peak_flops",
    "ratio",
}


def opponent_or_skip(table, name):
    support = table[name].support("cpu")
    if not support:
        pytest.skip(f"{name}: {support.why_not}")
    return table[name]


@pytest.mark.parametrize("case", SMALL)
@pytest.mark.parametrize("name", opponents.OPPONENTS)
def test_opponent_solves_the_same_system(name, case):
    if name == "func_compile" and case == "C1":
        pytest.skip("one Gaussian and one categorical compilation are enough")
    opponent_or_skip(opponents.OPPONENTS, name)
    work = make_workload(CASES[case], cap=256)
    iterations = 2 if name == "func_compile" else 10  # it unrolls them, and compiles them all
    for suite, tolerance in (("fvp", 2e-6), ("cg", 2e-4 if name.startswith("sb3") else 1e-5)):
        timed = SUITES[suite].opponent(name, work, "fp32", iterations)
        error = relative_error(timed.result(), SUITES[suite].exact(work, iterations))
        assert error < tolerance, (suite, error)


def test_compiled_gauss_newton_solves_the_same_system():
    """Timed on CUDA only; what it computes is seen here."""
    work = make_workload(CASES["cartpole"], cap=64)
    timed = SUITES["cg"].opponent("gauss_newton_compile", work, "fp32", 2)
    assert relative_error(timed.result(), SUITES["cg"].exact(work, 2)) < 1e-5
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("case", SMALL)
@pytest.mark.parametrize("name", opponents.UPDATE_OPPONENTS)
def test_opponent_takes_the_same_step(name, case):
    opponent_or_skip(opponents.UPDATE_OPPONENTS, name)
    work = make_workload(CASES[case])
    timed = SUITES["update"].opponent(name, work, "fp32", 10)
    assert relative_error(timed.result(), SUITES["update"].exact(work, 10)) < 5e-3


@pytest.mark.parametrize("case", ("tiny", "cartpole"))
@pytest.mark.parametrize("suite", ("act", "critic_128", "critic_1024"))
def test_learner_suites_agree_with_float64(suite, case):
    suite = SUITES[suite]
    work = make_workload(CASES[case], cap=suite.rows or 256)
    for name, precision in suite.contenders():
        with contextlib.suppress(BackendUnavailable):  # named among the skipped, as for the updates
            assert suite.error(suite.own(work, name, precision, 10), None) < 1e-4, name
    for name in suite.opponents:
        opponent_or_skip(suite.opponents, name)
        timed = suite.opponent(name, work, "fp32", 10)
        assert suite.error(timed, None) < 1e-4


def test_a_fit_reports_what_it_ends_at():
    work = make_workload(CASES["cartpole"], cap=1100)
    for name in ("critic_128", "critic_1024"):
        suite, losses = SUITES[name], []
        for contender in suite.contenders():
            with contextlib.suppress(BackendUnavailable):
                losses.append(suite.own(work, *contender, 10).loss)
        assert losses
        assert all(0 < loss["mean"] < 1 for loss in losses)  # the targets' variance is 1
        assert all(0 < loss["standard_error"] < 0.1 * loss["mean"] for loss in losses)


@pytest.mark.parametrize("case", SMALL)
def test_replica_repeats_sb3_operation_for_operation(case, monkeypatch):
    opponent_or_skip(opponents.OPPONENTS, "sb3")
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    cast = "stable_baselines3.common.policies.preprocess_obs"  # to float32, whatever it is given
    monkeypatch.setattr(cast, lambda obs, *_, **__: obs)
    work = make_workload(CASES[case], cap=256).double()
    exact = SUITES["cg"].own(work, "reference", "fp32", 5).result()
    for name in ("sb3", "sb3_replica"):
        x = SUITES["cg"].opponent(name, work, "fp32", 5).result()
        assert relative_error(x, exact) < 1e-9, name


@pytest.mark.parametrize("case", ("C1", "C4"))
def test_useful_flops_are_those_of_the_products(case):
    work = make_workload(CASES[case], cap=16)
    operator = FisherOperator(work.policy, work.obs, backend="reference")
    operator @ work.g  # the forward is cached from here on
    with FlopCounterMode(display=False) as counter:
        operator @ work.g
    assert counter.get_total_flops() == work.case.fvp_flops(work.rows)


def test_contenders_take_turns_and_reset_is_not_timed():
    order = []
    slow = Contender("a", "fp32", lambda: (order.append("a"), torch.rand(2**22)))
    fast = Contender("b", "fp32", lambda: order.append("b"), reset=lambda: order.append("r"))
    measure([slow, fast], seconds=0.0, least=3)
    assert len(slow.times) >= 3 and len(fast.times) >= 3
    assert order.count("r") == order.count("b")
    runs = [name for i, name in enumerate(order) if name != "r" and order[i - 1 : i] != [name]]
    assert "".join(dict.fromkeys(runs)) == "ab"
    assert order[-1] == "b"


def test_an_opponent_that_fails_is_named_and_skipped(monkeypatch, capsys):
    def fail(self, g, iterations):
        raise MemoryError("out of memory")

    monkeypatch.setattr(opponents.OPPONENTS["gauss_newton"], "solve", fail)
    arguments = "cg --case tiny --seconds 0.01 --backend reference --opponents gauss_newton"
    assert bench_cli.main(arguments.split()) == 0
    assert "cg/tiny/gauss_newton/fp32: MemoryError" in capsys.readouterr().out


def test_rates_follow_from_the_columns():
    row = Row("cg", "C1", 2048, 5126, 10, "cpu", "fp32", 2, 4000.0, 1e-7, 800_000_000, 250e9)
    assert row.products_per_second == pytest.approx(2500.0)
    assert row.gflops == pytest.approx(200.0) and row.efficiency == pytest.approx(0.8)
    assert replace(row, suite="cg_busy").products_per_second == pytest.approx(2500.0)
    assert replace(row, suite="fvp").products_per_second == pytest.approx(250.0)
    assert replace(row, suite="update").products_per_second is None
    header, line = table([row]).splitlines()
    assert "products/s     GF/s of sgemm" in header and "      2500      200    80.0%" in line


def dense(case, conventions):
    """A = F + damping I [P, P] of all rows, in float64, and the operator that multiplies by it."""
    work = make_workload(CASES[case], cap=48).double()
    return work, FisherOperator(work.policy, work.obs, damping=work.damping, **conventions)


@pytest.mark.parametrize("case", ("tiny", "cartpole"))
def test_gain_is_one_along_the_natural_gradient_and_less_elsewhere(case):
    work, F = dense(case, {})
    matrix, g, product = F.dense(), work.g, lambda v: F @ v
    exact = torch.linalg.solve(matrix, g)
    assert best(product, g) == pytest.approx(float(g @ exact) ** 0.5, rel=1e-9)
    for length in (1.0, 1e-3):
        assert gain(product, g, length * exact) == pytest.approx(1.0, rel=1e-9)
    wanted = float(g @ g / (g @ matrix @ g).sqrt() / (g @ exact).sqrt())
    assert gain(product, g, g) == pytest.approx(wanted, rel=1e-8) and 0 < wanted < 0.999
    assert gain(product, g, -g) == pytest.approx(-wanted, rel=1e-9)
    assert gain(product, g, torch.zeros_like(g)) == 0.0


def test_a_gain_without_an_answer_is_none(monkeypatch):
    monkeypatch.setattr("trpo_fast.bench.gain.ITERATIONS", 3)
    work, F = dense("tiny", {})
    with pytest.raises(ArithmeticError, match=r"gain: expected a residual .* within 3 products"):
        best(lambda v: F @ v, work.g)


def test_updates_are_judged_by_their_gain(tmp_path, capsys):
    work, _ = dense("tiny", {})
    batch = work.batch
    ratio = (batch.advantages * work.policy(batch.obs).log_prob(batch.actions)).mean()
    parts = torch.autograd.grad(ratio, list(work.policy.parameters()))
    g = torch.cat([part.reshape(-1) for part in parts])
    wanted = {
        "reference": SUITES["update"].own(work, "reference", "fp32", 2).result(),
        "reference+kfac": SUITES["update"].own(work, "reference+kfac", "fp32", 2).result(),
        "rat": SUITES["update"].opponent("rat", work, "fp32", 2).result(),
    }
    _, F = dense("tiny", {"kl_reduction": "mean"})  # the results have moved the other's policy
    arguments = "update --case tiny --rows 48 --iterations 2 --seconds 0.01 --backend reference"
    path = tmp_path / "rows.json"
    assert bench_cli.main([*arguments.split(), "--opponents", "rat", "--json", str(path)]) == 0
    rows = {row.backend: row for row in read_json(path)[1]}
    assert set(rows) == set(wanted) and set(rows["reference"].ratio) == {"rat"}
    assert set(rows["reference+kfac"].ratio) == {"plain", "rat"} and rows["reference+kfac"].k == 1
    for name, row in rows.items():
        assert row.gain == pytest.approx(gain(lambda v: F @ v, g, wanted[name]), abs=1e-4)
        assert row.rel_err < 1e-5
    assert "   error    gain  opponent's time" in capsys.readouterr().out


WRONG = {
    "--device cuda:77": "device: expected one that works here, got 'cuda:77': ",
    "--device meta": "device: expected one that works here, got 'meta': ",
    "--device nosuch": "device: expected one that works here, got 'nosuch': ",
    "--backend nobody": "backend: expected one of ('cpu', ",
    "--precision fp8": "precision: expected one of ('fp32', ",
    "--rows -1": "rows: expected an integer of at least 2, got -1",
    "--threads 0": "threads: expected an integer of at least 1, got 0",
    "--seconds nan": "seconds: expected a finite number of at least 0, got nan",
    "--busy -1": "busy: expected an integer of at least 0, got -1",
    "--threads 99999999999": "threads: expected an integer from 1 to 2147483647, got 99999999999",
    "--iterations 9999999999": "iterations: expected an integer from 1 to 2147483647, got 9999",
    "--iterations 0": "iterations: expected an integer of at least 1, got 0",
}


@pytest.mark.parametrize("suite", GROUPS)
def test_no_suite_runs_on_a_device_that_is_not_there(suite, capsys):
    assert main(["bench", suite, "--case", "tiny", "--device", "cuda:77"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("trpo-fast: device: expected") and error.count("\n") == 1


@pytest.mark.parametrize(("words", "message"), WRONG.items(), ids=WRONG)
def test_wrong_options_are_one_line(words, message, capsys):
    assert main(["bench", "fvp", "--case", "tiny", *words.split()]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"trpo-fast: {message}") and error.count("\n") == 1


def test_neighbours_are_ended():
    with busy_processes(2) as pids:
        assert len(pids) == 2 and all(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_command_writes_rows_with_every_column(tmp_path, capsys):
    arguments = "cg --case tiny --seconds 0.01 --opponents gauss_newton nobody --busy 1".split()
    assert bench_cli.main([*arguments, "--json", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*/cg.json")
    document = json.loads(path.read_text())
    assert all(set(row) == KEYS for row in document["rows"])
    assert {row["suite"] for row in document["rows"]} == {"cg", "cg_busy"}
    assert all(row["rel_err"] < 1e-5 for row in document["rows"])
    ours = [row for row in document["rows"] if row["backend"] == "reference"]
    assert all(set(row["ratio"]) == {"gauss_newton"} for row in ours)
    assert "nobody" in document["skipped"]
    header, rows = read_json(path)
    assert path.parent.name == machine_name(header) and len(rows) == len(document["rows"])
    assert "gauss_newton" in capsys.readouterr().out


def test_only_the_precisions_that_were_asked_for_are_timed(tmp_path):
    arguments = "fvp --case tiny --seconds 0.01 --turns 1 --opponents none --backend cpu reference"
    path = tmp_path / "fvp.json"
    words = [*arguments.split(), "--precision", "fp32", "--json", str(path)]
    assert bench_cli.main(words) == 0
    document = json.loads(path.read_text())
    timed = {row["precision"] for row in document["rows"]} | {
        name.split("/")[-1] for name in document["skipped"]
    }
    assert timed == {"fp32"}


def test_append_replaces_a_case_and_keeps_the_others(tmp_path, capsys):
    path = tmp_path / "rows.json"
    arguments = "--seconds 0.01 --turns 1 --backend reference --opponents none --json".split()
    for cases in (["tiny"], ["cartpole"], ["tiny"]):
        more = ["--append", "--rows", "8", "--case", *cases]
        assert bench_cli.main(["fvp", *arguments, str(path), *more]) == 0
    assert [row.case for row in read_json(path)[1]] == ["tiny", "cartpole"]
