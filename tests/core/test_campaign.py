"""Random policies, rows, layouts and options: the kernels are as exact as the float32 reference, a
step stays in its trust region as float64 measures it, and nothing that is refused moves a policy.
``TRPO_FAST_CAMPAIGN`` makes it as long as one likes.
"""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from campaign import Drawn, drawn, numbered
from cases import ON_CUDA, UPDATES, random_vector
from cpu_cases import in_double, needs_native, operator_of
from cuda_support import DEVICE, EMULATED, schedule, to_device, why_not
from exactness import CAMPAIGN, no_worse

from trpo_fast import FisherOperator, MLPPolicy, flat_params, trpo_update
from trpo_fast.core.batch import Batch
from trpo_fast.core.problem import STATS, CgConfig
from trpo_fast.core.surrogate import Measures

pytestmark = [pytest.mark.attack, needs_native]
ops = torch.ops.trpo_fast


def stages(backend: str, policy: MLPPolicy, batch: Batch, options: dict[str, Any]) -> list[Any]:
    """A product, a short solve, the gradient and what is said of a step, by one backend."""
    operator = operator_of(backend, policy, batch, **options)
    v = random_vector(policy).to(operator.theta.device)
    g, here = operator.gradient()
    there: Measures = operator.evaluate(operator.theta + 0.01 * v)
    said = torch.stack([n.double() for n in (there.kl, there.max_kl, there.surrogate)])
    found = [operator.fvp(v[None])[0], operator.solve(v[None], CgConfig(2)).x[0], g, said]
    if batch.old_params is not None:  # otherwise the KL of the call is zero
        found.append(torch.stack([here.kl.double(), here.max_kl.double()]))
    return found


def as_exact_as_the_reference(found: Drawn, backend: str) -> None:
    policy, batch, options = found.policy, found.batch, found.options
    there = copy.deepcopy(policy).to(DEVICE) if backend == "cuda" else policy
    ours = stages(backend, there, to_device(batch) if backend == "cuda" else batch, options)
    theirs = stages("reference", policy, batch, options)
    truth = stages("reference", *in_double(policy, batch), options)
    for i, (mine, its, true) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert torch.isfinite(mine).all(), i
        if not true.any():  # the gradient of a group of one row, say
            assert mine.abs().max() < 1e-6, i
            continue
        no_worse(mine.cpu(), its, true, CAMPAIGN)


@numbered(120)
def test_the_cpu_core_is_as_exact_as_the_reference(number: int) -> None:
    as_exact_as_the_reference(drawn(number), "cpu")


@numbered(30)
def test_the_cuda_kernels_are_as_exact_as_the_reference(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := why_not():
        pytest.skip(reason)
    if EMULATED:
        monkeypatch.setenv("TRPO_FAST_EMULATE", "1")
        schedule(order=number % 3, seed=number)
    as_exact_as_the_reference(drawn(1000 + number, rows=33, width=33, heads=ON_CUDA), "cuda")


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
@numbered(40)
def test_rows_of_another_policy_are_measured_as_exactly(
    number: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "cpu":
        as_exact_as_the_reference(drawn(6000 + number, sampled=True), "cpu")
        return
    if reason := why_not():
        pytest.skip(reason)
    if EMULATED:
        monkeypatch.setenv("TRPO_FAST_EMULATE", "1")
        schedule(order=number % 3, seed=number)
    found = drawn(7000 + number, rows=33, width=33, heads=ON_CUDA, sampled=True)
    as_exact_as_the_reference(found, "cuda")


@numbered(60)
def test_a_step_is_within_the_trust_region_that_float64_measures(number: int) -> None:
    found = drawn(2000 + number)
    policy, batch, options = found.policy, found.batch, found.options
    exact = operator_of("reference", *in_double(policy, batch), **options)
    before = flat_params(policy).clone()
    info = trpo_update(policy, batch, backend="cpu", **options)
    assert info.backend == "cpu" and info.accepted != torch.equal(before, flat_params(policy))
    if info.accepted:
        at, (_, start) = exact.evaluate(flat_params(policy).double()), exact.gradient()
        assert float(at.kl) <= 0.01 * 1.001 + 1e-7
        assert float(at.surrogate) >= float(start.surrogate) - 1e-6
        assert info.kl == pytest.approx(float(at.kl), rel=1e-2, abs=1e-6)
    else:
        assert info.reason in ("line_search_failed", "zero_gradient"), info


@numbered(25)
def test_bits_are_those_of_one_thread(number: int) -> None:
    found, results = drawn(3000 + number), []
    rows = {name: getattr(found.batch, name) for name in ("obs", "weights", "action_mask")}
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            policy = copy.deepcopy(found.policy)
            F = FisherOperator(policy, backend="cpu", **rows)
            x = F.solve(random_vector(policy), iterations=3).x
            info = trpo_update(policy, found.batch, backend="cpu", **found.options)
            results.append(torch.cat([x, flat_params(policy), info.stats.float()]))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(results[0], other) for other in results[1:])


def spoiled(draw: random.Random, x: torch.Tensor) -> Any:
    """Another rank, length, type, device or value than x has."""
    faults = [
        lambda: x[None],
        lambda: x.flatten()[:-1],
        lambda: torch.cat([x, x]),
        lambda: x.to(torch.complex64),
        lambda: x.to(torch.float16),
        lambda: x.to("meta"),
        lambda: x.to_sparse(),
        lambda: x.tolist(),
        lambda: "word",
        lambda: torch.full_like(x.float(), draw.choice([float("nan"), float("inf")])),
        lambda: torch.full_like(x.float(), -1e30),
    ]
    return draw.choice(faults)()


@numbered(250)
def test_nothing_that_is_refused_moves_a_policy(number: int) -> None:
    draw, found = random.Random(number), drawn(4000 + number, rows=33, width=9)
    policy, batch = found.policy, found.batch
    for name in draw.sample(("obs", "actions", "advantages", "log_probs"), draw.choice([1, 1, 2])):
        batch = replace(batch, **{name: spoiled(draw, getattr(batch, name))})
    update = UPDATES[draw.choice(list(UPDATES))]
    backend, sync = draw.choice(["auto", "cpu", "reference", "autograd"]), draw.random() < 0.7
    before = flat_params(policy).clone()
    try:
        info = update(policy, batch, backend=backend, sync=sync)
    except ValueError as error:
        assert " expected " in str(error) and ", got " in str(error)
        assert torch.equal(flat_params(policy), before)
        return
    # Actions or advantages of -1e30 are numbers, and rows without weight may hold anything.
    assert torch.isfinite(flat_params(policy)).all()
    assert info.accepted or torch.equal(flat_params(policy), before)
    assert info.accepted or info.reason != "accepted"


@numbered(120)
def test_operators_refuse_in_words_and_write_nothing(number: int) -> None:
    draw, found = random.Random(number), drawn(5000 + number, rows=33, width=9)
    policy, batch, spec = found.policy, found.batch, found.policy.spec
    theta = flat_params(policy).clone()
    given = {
        "theta": theta,
        "obs": batch.obs,
        "actions": batch.actions,
        "advantages": batch.advantages,
        "widths": list(spec.widths),
        "activation": spec.activation,
        "head": spec.head,
        "nvec": list(spec.nvec),
    }
    name = draw.choice(list(given))
    other: dict[str, Any] = {
        "widths": [[], [0], [3] * 9, [2**40, 1], [-1, 2]],
        "activation": ["softmax", ""],
        "head": ["poisson", "", "categorical" if spec.head != "categorical" else "gaussian"],
        "nvec": [[0], [1, 1], [2**40]],
    }
    value = spoiled(draw, given[name]) if name not in other else draw.choice(other[name])
    kept = theta.clone()
    try:
        moved, stats = ops.update(
            *(given | {name: value}).values(),
            log_probs=batch.log_probs,
            weights=batch.weights,
            action_mask=batch.action_mask,
        )
    except (ValueError, RuntimeError, NotImplementedError):  # torch's own of what is no tensor
        pass
    else:
        if int(stats[STATS.index("reason")]):
            start = value if name == "theta" else theta
            assert torch.equal(moved.nan_to_num(), start.nan_to_num())
        else:
            assert torch.isfinite(moved).all() and not torch.equal(moved, theta)
    assert torch.equal(theta, kept)
