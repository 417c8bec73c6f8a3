"""Shared by the pytest-benchmark front ends: which cases, backends and opponents to run.

pytest benchmarks --benchmark-enable --bench-cases C1 C2 --bench-contenders cpu jax_jit
"""

from __future__ import annotations

import pytest

from trpo_fast.bench import CASES, make_workload
from trpo_fast.bench.harness import finished
from trpo_fast.bench.suites import GROUPS, SUITES
from trpo_fast.core.problem import BackendUnavailable

ITERATIONS = 10


def pytest_addoption(parser):
    parser.addoption("--bench-cases", nargs="+", default=["tiny", "cartpole", "C1"])
    parser.addoption("--bench-contenders", nargs="+", help="backends and opponents (default: all)")
    parser.addoption("--bench-device", default="cpu")


def contenders(suite, wanted):
    """(name, precision, ours) of everything a suite can time on a CPU or GPU."""
    ours = [(name, precision, True) for name, precision in suite.contenders()]
    theirs = [(name, "fp32", False) for name in suite.opponents]
    return [c for c in ours + theirs if wanted is None or c[0] in wanted]


def pytest_generate_tests(metafunc):
    """One benchmark for each case, suite of the module's SUITE, and contender."""
    if "contender" not in metafunc.fixturenames:
        return
    wanted = metafunc.config.getoption("--bench-contenders")
    members = [SUITES[name] for name in GROUPS[metafunc.module.SUITE]]
    found = [(suite, c) for suite in members for c in contenders(suite, wanted)]
    ids = [
        "-".join([suite.name] * (len(members) > 1) + list(contender[:2]))
        for suite, contender in found
    ]
    metafunc.parametrize("case", metafunc.config.getoption("--bench-cases"))
    metafunc.parametrize(("suite", "contender"), found, ids=ids)


@pytest.fixture
def timed(request, case, suite, contender):
    """The call to time, its error against float64 kept beside the time."""
    name, precision, ours = contender
    device = request.config.getoption("--bench-device")
    workload = make_workload(CASES[case], device, suite.rows)
    try:
        if ours:
            made = suite.own(workload, name, precision, ITERATIONS)
        else:
            support = suite.opponents[name].support(device)
            if not support:
                pytest.skip(f"{name}: {support.why_not}")
            made = suite.opponent(name, workload, precision, ITERATIONS)
        error = suite.error(made, lambda: suite.exact(workload, ITERATIONS))
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    return made, error


def time_call(benchmark, made, device):
    """What the call has started on the device is part of it, what the reset has is not."""
    benchmark.pedantic(
        finished(made.call, device),
        setup=made.reset and finished(made.reset, device),
        rounds=10,
        iterations=1,
        warmup_rounds=2,
    )


@pytest.fixture
def run(request, benchmark, timed, suite, case):
    """Times the call and refuses a result without a finite error."""

    def go():
        made, error = timed
        benchmark.group = f"{suite.name} {case}"  # what may be compared
        benchmark.extra_info["rel_err"] = error
        time_call(benchmark, made, request.config.getoption("--bench-device"))
        assert error < float("inf")

    return go
