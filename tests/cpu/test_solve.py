"""The CPU core's gradient, evaluation, CG and update against the reference, and what it promises
about bits, failures and threads.
"""

from __future__ import annotations

import copy
import signal
import threading
import time
from dataclasses import replace

import pytest
import torch
from cases import Case, few, random_vector, thinned, weighted
from cpu_cases import (
    all_shapes,
    every_isa,
    in_double,
    native,
    needs_native,
    operator_of,
    single,
    update_case,
    update_cases,
)
from exactness import SOLUTION, SUMS, no_worse, relative_error

from trpo_fast import FisherOperator, flat_params, trpo_update
from trpo_fast.core.problem import CgConfig

pytestmark = needs_native
GROUPED = [replace(case, rows=36, group_size=4) for case in few()]
# Theirs is float32 as well, after five iterations of CG each: both roundings add up.
SAME_STEP = 1e-3
# A power of ten is not exact in float32, and a subnormal number has few digits.
SCALED, SUBNORMAL = 1e-5, 0.02


@pytest.fixture
def threads():
    """Sets torch's thread count for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def evaluations(policy, batch, theta, options):
    """Numbers of gradient() and evaluate(theta): ours, the float32 reference's, the truth's."""
    three = []
    for backend, p, b in (
        ("cpu", policy, batch),
        ("reference", policy, batch),
        ("reference", *in_double(policy, batch)),
    ):
        operator = operator_of(backend, p, b, **options)
        g, at = operator.gradient()
        there = operator.evaluate(theta.to(g.dtype))
        numbers = [at.surrogate, at.entropy, there.kl, there.max_kl, there.surrogate, there.entropy]
        three.append((g, torch.stack([n.double() for n in numbers])))
    return three


@pytest.mark.parametrize(
    "options", [{}, {"kl_direction": "reverse", "kl_reduction": "mean"}, {"chunk_rows": 50}]
)
@pytest.mark.parametrize("case", [*few(), *GROUPED, *thinned(all_shapes(), 7)], ids=str)
def test_gradient_and_evaluate(case, options):
    policy, batch = single(case)
    theta = flat_params(policy) + 0.01 * random_vector(policy)
    (g, ours), (g32, theirs), (g64, truth) = evaluations(policy, batch, theta, options)
    no_worse(g, g32, g64, SUMS, "gradient")
    no_worse(ours, theirs, truth, SUMS, "evaluation")


def test_without_log_probs_the_ratio_is_one():
    policy, batch = single(weighted("gaussian"))
    batch = replace(batch, log_probs=None)
    g, at = native(policy, batch).gradient()
    theirs, expected = operator_of("reference", policy, batch).gradient()
    truth, _ = operator_of("reference", *in_double(policy, batch)).gradient()
    no_worse(g, theirs, truth)
    assert float(at.surrogate) == pytest.approx(float(expected.surrogate), rel=1e-5)


@every_isa
@pytest.mark.parametrize("case", update_cases(), ids=str)
def test_solve(case, isa, monkeypatch):
    monkeypatch.setenv("TRPO_FAST_ISA", isa)
    policy, batch = single(case)
    g = random_vector(policy, columns=3).T.contiguous()
    ours = native(policy, batch).solve(g, CgConfig(10))
    theirs = operator_of("reference", policy, batch).solve(g, CgConfig(10))
    truth = operator_of("reference", *in_double(policy, batch)).solve(g.double(), CgConfig(10))
    no_worse(ours.x, theirs.x, truth.x, SOLUTION, "x")
    no_worse(ours.quad, theirs.quad, truth.quad, SOLUTION, "quad")
    assert ours.iterations.tolist() == theirs.iterations.tolist()


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1.0, 1e30])
def test_solve_is_linear_in_the_scale_of_g(scale):
    policy, batch = single(update_case("gaussian"))
    g = random_vector(policy)
    x = native(policy, batch).solve(g, CgConfig(10)).x
    scaled = native(policy, batch).solve((g.double() * scale).float(), CgConfig(10))
    assert relative_error(scaled.x.double() / scale, x) < (SUBNORMAL if scale < 1e-40 else SCALED)
    assert scaled.iterations == 10 and torch.isfinite(scaled.quad)


def test_stops_when_converged_and_at_zero():
    policy, batch = single(update_case("gaussian"))
    operator = native(policy, batch)
    g = random_vector(policy)
    assert operator.solve(torch.zeros_like(g), CgConfig(10)).iterations == 0
    assert torch.equal(operator.solve(torch.zeros_like(g), CgConfig(10)).x, torch.zeros_like(g))
    loose = operator.solve(g, CgConfig(50, 0.5))
    assert 0 < loose.iterations < 50
    assert loose.residual_norm <= 0.5 * g.norm()


def test_columns_equal_single_solves():
    policy, batch = single(update_case("gaussian"))
    operator = native(policy, batch)
    g = random_vector(policy, columns=10).T.contiguous()
    together = operator.solve(g, CgConfig(5))
    alone = [operator.solve(row, CgConfig(5)) for row in g]
    assert torch.equal(together.x, torch.stack([s.x for s in alone]))
    assert torch.equal(together.quad, torch.stack([s.quad for s in alone]))


@pytest.mark.parametrize("case", [*update_cases(), *GROUPED], ids=str)
@pytest.mark.parametrize("options", [{}, {"fvp_rows": 20}, {"chunk_rows": 40}])
def test_update_equals_the_reference(case, options):
    found = {}
    for backend in ("cpu", "reference"):
        policy, batch = single(case)
        info = trpo_update(policy, batch, backend=backend, cg_iterations=5, **options)
        found[backend] = info, flat_params(policy).clone()
    (ours, theta), (theirs, expected) = found["cpu"], found["reference"]
    assert ours.backend == "cpu" and ours.accepted
    assert relative_error(theta, expected) < SAME_STEP
    for name, value in theirs.as_dict().items():
        if name not in ("reason", "backend", "cg_residual"):
            assert getattr(ours, name) == pytest.approx(value, rel=2e-3, abs=1e-5), name


@pytest.mark.parametrize("case", [update_case("gaussian"), update_case("categorical")], ids=str)
@pytest.mark.parametrize("hidden", [(64, 64), (300, 256)], ids=str)
@every_isa
def test_equal_bits_for_any_number_of_threads(case, hidden, isa, threads, monkeypatch):
    monkeypatch.setenv("TRPO_FAST_ISA", isa)
    original, batch = single(replace(case, rows=1157, hidden=hidden))
    results = []
    for count in (1, 2, 3, 1):
        threads(count)
        policy = copy.deepcopy(original)
        F = FisherOperator(policy, batch.obs, weights=batch.weights, backend="cpu")
        x = F.solve(random_vector(policy), iterations=4).x
        info = trpo_update(policy, batch, backend="cpu", cg_iterations=3)
        results.append(torch.cat([x, flat_params(policy).clone(), info.stats.float()]))
    for other in results[1:]:
        assert torch.equal(results[0], other)


FAILURES = {
    "zero_gradient": lambda b: replace(b, advantages=torch.zeros_like(b.advantages)),
    "bad_values": lambda b: replace(b, advantages=torch.full_like(b.advantages, float("nan"))),
    "non_finite": lambda b: replace(b, advantages=torch.full_like(b.advantages, 3e38)),
}


@pytest.mark.parametrize("reason", FAILURES)
def test_failure_moves_nothing(reason):
    policy, batch = single(Case(rows=64))
    bad = FAILURES[reason](replace(batch, log_probs=batch.log_probs - 3.0))
    before = flat_params(policy).clone()
    info = trpo_update(policy, bad, backend="cpu", sync=False)
    assert info.reason == reason
    assert torch.equal(flat_params(policy), before)


def test_no_acceptable_step_moves_nothing():
    policy, batch = single(Case(rows=64))
    before = flat_params(policy).clone()
    ratio_at_its_best = replace(batch, advantages=-torch.ones_like(batch.advantages) * 1e-12)
    info = trpo_update(policy, ratio_at_its_best, backend="cpu", max_kl=1e4, backtrack_steps=1)
    assert info.reason in ("line_search_failed", "zero_gradient")
    assert torch.equal(flat_params(policy), before)


def test_two_python_threads_share_an_operator():
    policy, batch = single(update_case("gaussian"))
    operator = native(policy, batch)
    v = random_vector(policy)
    expected = operator.fvp(v)
    results: list[torch.Tensor] = []
    workers = [
        threading.Thread(target=lambda: results.extend(operator.fvp(v) for _ in range(50)))
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 150 and all(torch.equal(r, expected) for r in results)


@pytest.fixture
def interruptible():
    """Ctrl-C raises, as in a terminal: a shell's background jobs inherit an ignored SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_interrupt_between_iterations_moves_nothing():
    policy, batch = single(replace(update_case("gaussian"), rows=20000, hidden=(64, 64)))
    before = flat_params(policy).clone()
    timer = threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        # Without damping CG in float32 does not converge; the sleep catches an update that did.
        trpo_update(policy, batch, backend="cpu", cg_iterations=2000, damping=0.0)
        time.sleep(10.0)
    timer.join()
    assert torch.equal(flat_params(policy), before)


def test_says_what_it_cannot_serve():
    from trpo_fast import BackendUnavailable

    case = Case()
    policy, batch = case.policy(), case.batch(case.policy())
    with pytest.raises(BackendUnavailable, match="float32"):
        trpo_update(policy, batch, backend="cpu")
    with pytest.raises(BackendUnavailable, match="hidden layers"):
        deep, rows = single(replace(case, hidden=(4,) * 9))
        trpo_update(deep, rows, backend="cpu")
