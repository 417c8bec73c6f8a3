"""Updates whose rows lie on several processes do what one process with all rows would do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.support.cases import Case
from tests.support.cuda_support import EMULATED, why_not
from tests.support.exactness import STEP, no_worse, relative_error
from tests.support.rank_cases import emulated, made, part_of, solved, updated
from trpo_fast import trpo_update
from trpo_fast.backends.registry import registry

EXACT = 1e-12  # of few iterations: each may multiply what rounding left, in one process as well
SPLITS = {
    "two": (13, 33),
    "three": (5, 25, 33),
    "the second without rows": (33, 33),
    "the first without rows": (0, 20, 33),
    "the second without weight": (31, 32, 33),  # of rows 31 and 32, 31 has none
}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "mean reverse": {"kl_reduction": "mean", "kl_direction": "reverse"},
    "largest KL": {"constraint": "max", "max_kl": 0.05},
    "strided rows": {"fvp_rows": 20},
    "few rows": {"fvp_rows": 2},
    "chunks": {"chunk_rows": 7, "fvp_rows": 20},
    "kfac": {"preconditioner": "kfac", "cg_iterations": 3, "factor_fraction": 0.3},
    "kfac of strided rows": {"preconditioner": "kfac", "fvp_rows": 25, "cg_iterations": 3},
    "stops": {"cg_tol": 0.1, "cg_gain_tol": 0.05, "cg_iterations": 30},
    "empirical": {"fisher": "empirical", "cg_iterations": 5},
    "sampler": {"old_params": True, "max_kl": 0.05},
    "double backward": {"backend": "autograd"},
}


def check(found: list[Any], truth: tuple[torch.Tensor, dict[str, Any]]) -> None:
    """Every rank's parameters and report: equal bits among them, and those of one process."""
    theta, said = truth
    for moved, info in found:
        assert torch.equal(moved, found[0][0]) and info == found[0][1]
    moved, info = found[0]
    assert relative_error(moved, theta) < EXACT
    assert info["reason"] == said["reason"]
    for name, value in said.items():
        if isinstance(value, float):
            assert info[name] == pytest.approx(value, rel=EXACT, abs=1e-13), name


def run(ranks: Any, jobs: list[Any]) -> None:
    """The jobs on ranks and in one process, with what each update reports."""
    count = len(jobs[0][1])
    found = zip(*ranks.run(updated, jobs, ranks=count), strict=True)
    for here, truth in zip(found, updated(None, jobs), strict=True):
        check(list(here), truth)


@pytest.mark.parametrize("split", SPLITS)
def test_updates_are_those_of_one_process(ranks, split):
    ends = SPLITS[split]
    cases = [Case("gaussian", weights=True), Case("categorical", weights=True, masks=True)]
    run(ranks, [(c, ends, "trpo_update", o) for c in cases for o in SETTINGS.values()])


@pytest.mark.parametrize("head", ["beta", "multicategorical", "squashed", "bernoulli"])
def test_every_update_function_shares_rows(ranks, head):
    case = Case(head)
    kinds = ("npg_update", "kl_penalty_update", "kl_penalty_adam", "pg_update")
    splits = (SPLITS["two"], SPLITS["the second without rows"])
    run(ranks, [(case, ends, kind, {}) for ends in splits for kind in kinds])


def test_indices_are_those_of_the_ranks_own_rows(ranks):
    case, few = Case(weights=True), {"cg_iterations": 4}
    some = [[1, 4, 9], [2, 7, 13, 20, 30], [31]]  # row 31 has no weight
    jobs = [(case, (13, 33), "trpo_update", {"indices": each, **few}) for each in some[:2]]
    run(ranks, jobs)
    jobs = [(case, (13, 33), "trpo_update", {"indices": some[2], "sync": False})]
    (here,), (there,) = ranks.run(updated, jobs)
    assert here[1]["reason"] == there[1]["reason"] == "bad_values"


def test_weights_may_be_there_on_some_ranks_only(ranks):
    run(ranks, [(Case("beta"), (13, 33), "trpo_update", {"weights of one": True})])


def test_groups_of_rows_stay_with_their_rank(ranks):
    case = Case("categorical", rows=32, group_size=4, weights=True)
    run(ranks, [(case, (12, 32), "trpo_update", {"fvp_rows": fvp_rows}) for fvp_rows in (None, 9)])


def test_policies_with_a_memory_share_whole_sequences(ranks):
    options = [{}, {"fvp_rows": 40}, {"preconditioner": "kfac"}]
    jobs = [("gru", (20, 60), "trpo_update", {**each, "cg_iterations": 4}) for each in options]
    run(ranks, jobs)
    run(ranks, [("lstm", (20, 20, 60), "trpo_update", {"cg_iterations": 4})])


@pytest.mark.parametrize("distribution", ["normal", "categorical"])
def test_modules_of_ones_own_share_rows(ranks, distribution):
    options = [{}, {"fvp_rows": 9}, {"preconditioner": "kfac"}, {"backend": "autograd"}]
    jobs = [(distribution, (8, 21), "trpo_update", each) for each in options]
    run(ranks, [*jobs, (distribution, (21, 21), "trpo_update", {"preconditioner": "kfac"})])


@pytest.mark.parametrize(
    "options, solve",
    [
        ({"damping": 0.1}, {"iterations": 12}),
        ({"fvp_rows": 20, "damping": 0.0}, {"tol": 1e-3}),
        ({"kl_reduction": "mean"}, {"preconditioner": "kfac"}),
        ({"fisher": "empirical"}, {"preconditioner": "kfac", "gain_tol": 0.01}),
    ],
    ids=str,
)
def test_an_operator_multiplies_and_solves_for_all_rows(ranks, options, solve):
    for split in ("two", "the first without rows"):
        ends, case = SPLITS[split], Case(weights=True)
        truth = solved(None, case, ends, options, solve)
        for found in ranks.run(solved, case, ends, options, solve, ranks=len(ends)):
            for name, value in truth.items():
                assert relative_error(found[name], value) < EXACT, name


def moved_exactly(case: Case, ends: Any, options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Parameters after one process's update by the reference, in float32 and in float64."""
    wide, settings = replace(case, dtype=torch.float64), {**options, "backend": "reference"}
    jobs = [(each, ends, "trpo_update", settings) for each in (case, wide)]
    (reference, _), (truth, _) = updated(None, jobs)
    return reference, truth


@pytest.mark.parametrize("backend", ["reference", "cpu", "cuda"])
def test_kernels_of_every_rank_are_as_exact_as_the_reference(ranks, backend):
    if backend == "cpu" and (answer := registry()["cpu"].machine_support().why_not):
        pytest.skip(answer)
    if backend == "cuda" and (answer := why_not() or "" if EMULATED else "a device is there"):
        pytest.skip(answer)
    ends = (40, 129)
    for options in ({"fvp_rows": 100}, {"preconditioner": "kfac", "cg_iterations": 3}):
        case = Case("gaussian", rows=129, weights=True, dtype=torch.float32)
        job = [(case, ends, "trpo_update", {**options, "backend": backend})]
        (here,), (there,) = ranks.run(emulated if backend == "cuda" else updated, job)
        assert torch.equal(here[0], there[0]) and here[1] == there[1]
        assert here[1]["reason"] == "accepted" and here[1]["backend"] == backend
        reference, truth = moved_exactly(case, ends, options)
        no_worse(here[0], reference, truth, STEP, backend)


def counted(group: Any) -> tuple[int, int, int]:
    """How often an update exchanges something, with the iterations and trials it had."""
    policy, batch = made(Case())
    batch, calls, plain = part_of(group, batch, (13, 33)), [], torch.distributed.all_reduce

    def counting(*given: Any, **options: Any) -> Any:
        calls.append(given)
        return plain(*given, **options)

    torch.distributed.all_reduce = counting
    try:
        info = trpo_update(policy, batch, group=group)
    finally:
        torch.distributed.all_reduce = plain
    return len(calls), info.cg_iterations, info.backtracks + 1


def test_an_update_exchanges_a_product_and_a_trial_once_each(ranks):
    for calls, iterations, trials in ranks.run(counted):
        assert calls == 4 + iterations + trials  # options, gradient, its measures, errors
