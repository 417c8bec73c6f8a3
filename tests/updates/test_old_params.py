"""Updates of a batch that another policy sampled: KL and ratios are to that policy, by every
backend and for every head, and the step is what is left of max_kl.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import HEADS, ON_CUDA, UPDATES, Case, few, poison, weighted
from cpu_cases import in_double
from cuda_support import to_device
from exactness import SOLUTION, no_worse, relative_error
from module_cases import DISTRIBUTIONS, Custom
from sampler_cases import BACKENDS, MAX_KL, Moved, moved, moved_module, ready
from torch import nn

from trpo_fast import Batch, distribution_params, flat_params, npg_update, trpo_update
from trpo_fast.core.problem import STATS

OPTIONS: list[dict[str, Any]] = [
    {},
    {"kl_direction": "reverse"},
    {"chunk_rows": 10},
    {"fvp_rows": 11},
    {"constraint": "max"},
]
SERVED = [
    (backend, head, options)
    for backend in BACKENDS
    for head in (ON_CUDA if backend == "cuda" else HEADS)
    for options in (OPTIONS if head in ("gaussian", "categorical") else OPTIONS[:2])
    if not (backend == "autograd" and "chunk_rows" in options)
]
GROUPED = Case(rows=64, weights=True, group_size=4)
# A KL of rows in float32 is off by so much for rounding, beside a share of 1e-4.
ROUNDING = 3e-7


def near(value: float, dtype: torch.dtype) -> Any:
    double = dtype == torch.float64
    return pytest.approx(value, rel=1e-8 if double else 1e-3, abs=1e-12 if double else ROUNDING)


def check_kl(m: Moved, info: Any, dtype: torch.dtype, **options: Any) -> None:
    """The reported KLs are those of the policy as it is now, and of nothing else."""
    kl = m.kl(reverse=options.get("kl_direction") == "reverse")
    assert info.kl_from == "sampler"
    assert info.kl == near(m.mean(kl), dtype)
    assert info.max_state_kl == near(m.largest(kl), dtype)


@pytest.mark.parametrize(("backend", "head", "options"), SERVED)
def test_the_second_update_reports_the_kl_to_the_sampler(
    backend: str, head: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, dtype = ready(backend, monkeypatch), BACKENDS[backend][1]
    m = moved(weighted(head), backend)
    begin = m.mean(m.kl(reverse=options.get("kl_direction") == "reverse"))
    largest = "constraint" in options
    limit = 5 * MAX_KL if largest else MAX_KL
    info = trpo_update(m.policy, m.batch, max_kl=limit, backend=name, **options)
    assert info.accepted and info.backend == name and begin < info.kl
    assert (info.max_state_kl if largest else info.kl) <= limit
    check_kl(m, info, dtype, **options)
    first = math.sqrt(limit) - math.sqrt(begin)
    step = first * math.sqrt(2 / info.quad) * 0.8**info.backtracks
    assert info.step_size == pytest.approx(step, rel=1e-6 if dtype == torch.float64 else 1e-3)


@pytest.mark.parametrize("head", ["gaussian", "categorical"])
def test_split_precision_reports_it(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = ready("cuda", monkeypatch)
    m = moved(replace(weighted(head), rows=70, hidden=(32, 16)), "cuda")
    info = trpo_update(m.policy, m.batch, max_kl=MAX_KL, backend=name, precision="fp16x3")
    assert info.accepted
    check_kl(m, info, torch.float32)


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
@pytest.mark.parametrize(
    "options", [{}, {"chunk_rows": 9, "kl_reduction": "mean"}, {"kl_direction": "reverse"}]
)
@pytest.mark.parametrize(
    "case", [*few(ON_CUDA), Case(rows=64, weights=True, group_size=4)], ids=str
)
def test_kernels_take_the_references_step(
    case: Case, options: dict[str, Any], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = ready(backend, monkeypatch)
    m = moved(case, backend)
    single = copy.deepcopy(m.policy).cpu(), to_device(m.batch, device="cpu")
    double = in_double(*single)
    infos, steps = [], []
    for (policy, batch), chosen in zip(
        ((m.policy, m.batch), single, double), (name, "reference", "reference"), strict=True
    ):
        before = flat_params(policy).clone()
        given = {"max_kl": MAX_KL, "cg_iterations": 4, "backend": chosen, **options}
        infos.append(trpo_update(policy, batch, **given))
        steps.append((flat_params(policy) - before).cpu())
    ours, theirs, truth = infos
    assert ours.accepted and ours.backtracks == truth.backtracks
    no_worse(*steps, SOLUTION, "step")
    for stat in STATS[1:]:
        value, near, exact = (getattr(info, stat) for info in (ours, theirs, truth))
        assert abs(value - exact) <= 3 * abs(near - exact) + 1e-4 * abs(exact) + 2e-5, stat


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("update", UPDATES)
def test_every_rule_reports_it(update: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, dtype = ready(backend, monkeypatch), BACKENDS[backend][1]
    m = moved(Case("gaussian_state", weights=True), backend)
    before = flat_params(m.policy).clone()
    info = UPDATES[update](m.policy, m.batch, backend=name, sync=False)
    check_kl(m, info, dtype)
    assert info.accepted and not torch.equal(before, flat_params(m.policy))


@pytest.mark.parametrize("backend", ["reference", "autograd"])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_modules(name: str, backend: str) -> None:
    torch.manual_seed(0)
    policy = Custom(DISTRIBUTIONS[name]).double()
    obs = torch.randn(21, 4, dtype=torch.float64)
    with torch.no_grad():
        actions = policy(obs).sample()
        if name == "squashed":
            actions = actions.clamp(-0.99, 0.99).atanh()
    weights = torch.rand(21, dtype=torch.float64)
    weights[::4] = 0.0
    batch = Batch(obs, actions, torch.randn(21, dtype=torch.float64), weights=weights)
    m = moved_module(policy, batch)
    info = trpo_update(m.policy, m.batch, max_kl=MAX_KL, backend=backend)
    assert info.accepted and info.kl > MAX_KL / 4
    check_kl(m, info, torch.float64)


def gradient_ratio(m: Moved, backend: str, batch: Batch) -> Any:
    policy_before = flat_params(m.policy).clone()
    info = trpo_update(m.policy, batch, max_kl=MAX_KL, backend=backend)
    after = flat_params(m.policy).clone()
    flat_params(m.policy).copy_(policy_before)
    return info, after


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("head", ["gaussian", "categorical"])
@pytest.mark.parametrize("group_size", [None, 3])
def test_without_log_probs_ratios_are_to_the_sampler(
    head: str, backend: str, group_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The case's log_probs are the sampler's: leaving them out changes nothing but rounding."""
    name, dtype = ready(backend, monkeypatch), BACKENDS[backend][1]
    m = moved(replace(weighted(head), group_size=group_size), backend)
    given, there = gradient_ratio(m, name, m.batch)
    without, here = gradient_ratio(m, name, replace(m.batch, log_probs=None))
    call, _ = gradient_ratio(m, name, replace(m.batch, log_probs=None, old_params=None))
    assert without.surrogate_before == near(given.surrogate_before, dtype)
    assert without.surrogate_before != near(call.surrogate_before, dtype)
    assert relative_error(here, there) < (1e-9 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("head", ["gaussian", "gaussian_state", "multicategorical", "bernoulli"])
def test_rows_without_weight_may_hold_anything(
    head: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = ready(backend, monkeypatch)
    m = moved(weighted(head), backend)
    good, after = gradient_ratio(m, name, m.batch)
    bad, same = gradient_ratio(m, name, poison(m.batch))
    assert good.accepted and torch.equal(good.stats, bad.stats) and torch.equal(after, same)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("update", [trpo_update, npg_update])
def test_a_call_at_its_limit_moves_nothing(
    update: Any, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, dtype = ready(backend, monkeypatch), BACKENDS[backend][1]
    m = moved(weighted("gaussian"), backend)
    before, begin = flat_params(m.policy).clone(), m.mean(m.kl())
    for limit in (0.999 * begin, 0.1 * begin):
        info = update(m.policy, m.batch, max_kl=limit, backend=name, sync=False)
        assert info.reason == "at_kl_limit" and not info.accepted and info.step_size == 0
        assert info.surrogate_after == info.surrogate_before
        check_kl(m, info, dtype)
        assert torch.equal(before, flat_params(m.policy))
    assert update(m.policy, m.batch, max_kl=1.1 * begin, backend=name).accepted
    assert info.gradient_norm > 0 and info.quad > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_fixed_rate_knows_no_limit(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = ready(backend, monkeypatch)
    m = moved(weighted("gaussian"), backend)
    info = npg_update(m.policy, m.batch, max_kl=1e-9, learning_rate=0.01, backend=name)
    assert info.accepted and info.step_size == pytest.approx(0.01)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_without_it_reports_the_kl_from_the_call(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = ready(backend, monkeypatch)
    m = moved(weighted("gaussian"), backend)
    info = trpo_update(m.policy, replace(m.batch, old_params=None), max_kl=1e-4, backend=name)
    assert info.accepted and info.kl_from == "call" and info.kl <= 1e-4


def test_what_a_mask_forbids_is_not_looked_at() -> None:
    """Logits with or without the mask in them are the same distribution."""
    for backend in ("reference", "auto"):
        m = moved(replace(weighted("categorical"), weights=False), "reference")
        mask = m.batch.action_mask
        assert mask is not None and m.batch.old_params is not None
        info, after = gradient_ratio(m, backend, m.batch)
        raw = torch.where(mask, m.batch.old_params, float("nan"))
        other, same = gradient_ratio(m, backend, replace(m.batch, old_params=raw))
        assert torch.equal(info.stats, other.stats) and torch.equal(after, same)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_parameters_for_a_batch(name: str) -> None:
    """One row of D numbers for each, of any policy; nothing is differentiated."""
    torch.manual_seed(0)
    policy: nn.Module = Custom(DISTRIBUTIONS[name])
    params = distribution_params(policy, torch.randn(5, 4))
    assert params.shape == (5, 4) and not params.requires_grad
    stock = Case("gaussian", dtype=torch.float32).policy()
    obs = torch.randn(5, 5)
    with torch.no_grad():
        assert torch.equal(distribution_params(stock, obs), stock.distribution_params(obs))
