"""How the suites time a device: our calls eager and as a CUDA graph, as the opponents'; and the
front ends wait for what they time. The emulator takes the device's place.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
from cuda_graph import capture, no_values_compared
from cuda_support import EMULATED, kernels  # noqa: F401

from trpo_fast.bench import harness
from trpo_fast.bench import run as bench_run
from trpo_fast.bench.run import Options, run
from trpo_fast.bench.suite import GRAPH, PRECONDITIONED, Timed
from trpo_fast.bench.suites import SUITES
from trpo_fast.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def host_graphs(monkeypatch):
    if not EMULATED:
        pytest.skip("a device has graphs of its own")
    no_values_compared(monkeypatch)
    monkeypatch.setattr(bench_run, "copy_rate", lambda device: 1e9)  # the host's takes a second
    made = []

    def record(call, *generators):
        call()
        made.append(capture(call, *generators))
        return made[-1]

    monkeypatch.setattr(harness, "record", record)
    return made


@pytest.mark.parametrize("suite", ["fvp", "cg", "update", "act"])
def test_our_calls_are_timed_eager_and_replayed(suite, host_graphs):
    options = Options(
        cases=["tiny"],
        backends=["cuda", GRAPH],
        opponents=[],
        iterations=3,
        rows=None if suite == "act" else 40,
        seconds=0.01,
        turns=1,
    )
    outcome = run(suite, options, say=lambda line: None)
    precisions = ["fp32"] if suite == "act" else ["fp32", "fp16x3"]
    found = {(row.backend, row.precision): row.rel_err for row in outcome.rows}
    solvers = ("", PRECONDITIONED) if suite == "update" else ("",)
    assert set(found) == {(b + s, p) for b in ("cuda", GRAPH) for s in solvers for p in precisions}
    assert host_graphs and all(error < 1e-3 for error in found.values())
    if suite != "act":  # which draws anew
        assert all(found["cuda", p] == found[GRAPH, p] for p in precisions)


def test_a_graph_without_a_device_is_a_sentence(capsys):
    if not EMULATED:
        pytest.skip("there is a device")
    words = ["bench", "cg", "--case", "tiny", "--rows", "40", "--opponents", "none"]
    assert main([*words, "--device", "cpu", "--backend", GRAPH]) == 1
    said = capsys.readouterr().out
    assert "skipped cg/tiny/cuda_graph/fp32: a CUDA graph: expected a CUDA device, got none" in said


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_on_cuda_without_a_device_is_a_sentence(suite, capsys):
    if not EMULATED:
        pytest.skip("there is a device")
    assert main(["bench", suite.split("_")[0], "--case", "tiny", "--device", "cuda"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("trpo-fast: device: expected one that works here, got 'cuda'")
    assert error.count("\n") == 1


def test_the_front_ends_wait_for_the_device(monkeypatch):
    """A call returns before its work ends; what is timed ends with the wait, and a reset's work is
    done before.
    """
    path = ROOT / "benchmarks" / "conftest.py"
    spec = importlib.util.spec_from_file_location("bench_conftest", path)
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    order = []
    monkeypatch.setattr(harness.torch.cuda, "synchronize", lambda: order.append("wait"))

    def pedantic(timed, setup, **_):
        setup()
        order.append("clock")
        timed()
        order.append("clock")

    made = Timed(lambda: order.append("call"), lambda: None, lambda: order.append("reset"))
    conftest.time_call(SimpleNamespace(pedantic=pedantic), made, "cuda")
    assert order == ["reset", "wait", "clock", "call", "wait", "clock"]
    order.clear()
    conftest.time_call(SimpleNamespace(pedantic=pedantic), made, "cpu")
    assert order == ["reset", "clock", "call", "clock"]
