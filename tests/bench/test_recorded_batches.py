"""Batches from training, and solves of them to a given gain."""

from __future__ import annotations

import json
import math

import pytest
import torch

from trpo_fast import flat_params
from trpo_fast.bench import CASES, make_workload
from trpo_fast.bench import cli as bench_cli
from trpo_fast.bench.cases import RECORDED_CASES
from trpo_fast.bench.gain_suites import GOALS, _judge
from trpo_fast.bench.suites import GROUPS


@pytest.mark.parametrize("name", RECORDED_CASES)
def test_a_recorded_batch_is_what_its_case_says(name):
    case = CASES[name]
    work = make_workload(case)
    assert work.rows == case.full_rows and work.obs.shape[1] == case.obs_dim
    assert work.size == flat_params(work.policy).numel()
    assert work.obs.isfinite().all() and work.obs.abs().max() <= 10.0
    # Observations were normalised over all of training, advantages over each rollout.
    assert abs(float(work.batch.advantages.mean())) < 1e-2
    assert float(work.batch.advantages.std()) == pytest.approx(1.0, rel=0.02)
    assert work.g.norm() > 1e-3 and work.g.isfinite().all()
    assert len(make_workload(case, cap=100).batch) == 100


@pytest.mark.parametrize("goal", GOALS.values(), ids=GOALS)
def test_the_fewest_products_are_the_fewest(goal):
    judge = _judge("hopper", 512)
    for preconditioner in (None, "kfac"):
        products = judge.products(goal, preconditioner)
        wanted = judge.gain(judge.solve(10, None)) if goal is None else goal
        assert judge.gain(judge.solve(products, preconditioner)) >= wanted - 1e-9
        if preconditioner is not None or goal is not None:
            assert judge.gain(judge.solve(products - 1, preconditioner)) < wanted


@pytest.mark.parametrize("name", RECORDED_CASES)
def test_three_products_with_factors_are_a_better_step_than_ten_without(name):
    judge = _judge(name, 2048)
    plain, kfac = judge.gain(judge.solve(10, None)), judge.gain(judge.solve(3, "kfac"))
    print(f"{name}: plain CG after ten products {plain:.3f}, with factors after three {kfac:.3f}")
    assert kfac > plain
    assert judge.gain(judge.solve(6, "kfac")) > 0.95


def test_the_command_times_solves_to_a_gain(tmp_path, capsys):
    path = tmp_path / "cg.json"
    words = ["cg", "--case", "hopper", "--rows", "300", "--backend", "reference", "--seconds", "0"]
    words += ["--turns", "1", "--opponents", "gauss_newton", "--json", str(path)]
    assert bench_cli.main(words) == 0
    rows = json.loads(path.read_text())["rows"]
    assert {row["suite"] for row in rows} == set(GROUPS["cg"])
    to_95 = {row["backend"]: row for row in rows if row["suite"] == "cg_to_95"}
    assert set(to_95) == {"reference", "reference+kfac", "gauss_newton"}
    assert all(0.95 - 1e-6 <= row["gain"] <= 1.0 + 1e-6 for row in to_95.values())
    assert to_95["reference+kfac"]["k"] < to_95["reference"]["k"] == to_95["gauss_newton"]["k"]
    ratio = to_95["reference+kfac"]["ratio"]
    assert set(ratio) == {"plain", "gauss_newton"} and all(map(math.isfinite, ratio.values()))
    assert set(to_95["reference"]["ratio"]) == {"gauss_newton"}
    assert all(row["rel_err"] < 1e-3 for row in rows)
    assert "reference+kfac" in capsys.readouterr().out


def test_recorded_cases_are_run_by_default_for_solves_alone():
    assert set(RECORDED_CASES) <= set(bench_cli._default_cases("cg"))
    assert not set(RECORDED_CASES) & set(bench_cli._default_cases("update"))
    assert torch.equal(make_workload(CASES["hopper"]).g, make_workload(CASES["hopper"]).g)
