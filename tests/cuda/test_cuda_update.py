"""Whole updates in one launch: the reference's decisions, KL and parameters, or nothing at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import ON_CUDA, UPDATES, Case, few, poison, weighted
from cuda_support import (  # noqa: F401
    DEVICE,
    Emulator,
    Trio,
    kernels,
    problem,
    schedule,
    small_device,
    to_device,
)
from exactness import STEP, no_worse, relative_error

from trpo_fast import Batch, FisherOperator, Gaussian, MLPPolicy, npg_update, trpo_update
from trpo_fast.backends.cuda import CudaOperator
from trpo_fast.core.problem import REASONS, STATS, CgConfig, UpdateConfig
from trpo_fast.policy.flat import flat_params

USUAL = Case("gaussian", (64, 64), rows=33, obs_dim=11)
GROUPS = Case("gaussian", (17, 5), "silu", 64, group_size=4, weights=True)
WIDE = Case("gaussian", (128, 128), rows=9, obs_dim=348)
CASES = [
    *few(ON_CUDA),
    USUAL,
    Case("gaussian", (), rows=1),
    GROUPS,
    Case("categorical", (5,), "gelu", 66, group_size=33, masks=True),
    Case("gaussian_state", (96, 128), "relu", 20, obs_dim=3),
    WIDE,
]
# Few iterations: a solution in float32 is then close to float64's.
CONFIG = UpdateConfig(cg=CgConfig(4))
# Of two updates in float32, each with ten iterations of CG: both roundings add up.
SAME_STEP = 1e-3


def numbers(stats):
    return dict(zip(STATS, stats.tolist(), strict=True))


def assert_same(t: Trio, config: UpdateConfig) -> None:
    """Statistics and parameters within what the float32 reference's own rounding explains."""
    got, single, exact = (numbers(o.update(config)) for o in (t.kernels, t.single, t.exact))
    for name in ("reason", "backtracks", "cg_iterations"):
        assert got[name] == exact[name], name
    for name in STATS:
        slack = 3 * abs(single[name] - exact[name]) + 1e-4 * abs(exact[name]) + 2e-5
        assert abs(got[name] - exact[name]) <= slack, name
    no_worse(*(o.problem.theta for o in (t.kernels, t.single, t.exact)), STEP, "parameters")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_update_equals_reference(case):
    assert_same(Trio(case), CONFIG)


@pytest.mark.parametrize(
    "options",
    [
        {"kl_direction": "reverse"},
        {"kl_reduction": "mean"},
        {"fvp_rows": 13},
        {"chunk_rows": 8},
        {"damping": 0.0},
    ],
)
def test_options(options):
    assert_same(Trio(Case("gaussian", (8, 5), rows=129, weights=True), **options), CONFIG)


@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, max_kl=0.5, backtrack_ratio=0.5),
        replace(CONFIG, max_kl=30.0, backtrack_ratio=0.9, backtrack_steps=20),
        replace(CONFIG, max_kl=1e3, backtrack_steps=2),
        replace(CONFIG, search=False),
        replace(CONFIG, search=False, learning_rate=0.02),
        replace(CONFIG, cg=CgConfig(30, 0.3)),
    ],
    ids=str,
)
@pytest.mark.parametrize("rows", [33, 200])
def test_search_takes_the_same_candidate(config, rows):
    t = Trio(Case("gaussian", (8, 5), rows=rows))
    before = t.kernels.problem.theta.clone()
    assert_same(t, config)
    stats = numbers(t.exact.update(config))
    moved = not torch.equal(before, t.kernels.problem.theta)
    assert moved == (REASONS[int(stats["reason"])] == "accepted")


@pytest.mark.parametrize("case", [USUAL, GROUPS, WIDE], ids=str)
def test_equal_bits_whatever_the_schedule(case):
    found = []
    for order, seed, preempt in [(1, 1, 0.0), (0, 1, 0.0), (2, 5, 0.3)]:
        schedule(order, seed, preempt)
        t = Trio(case, grid=3)
        found.append((t.kernels.update(CONFIG), t.kernels.problem.theta))
    for stats, theta in found[1:]:
        assert torch.equal(stats, found[0][0]) and torch.equal(theta, found[0][1])


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("case", [weighted("gaussian"), GROUPS], ids=["plain", "groups"])
def test_every_update_rule_is_served(name, case):
    """By the kernels' gradient, solver and evaluation; what they gave is the reference's."""
    case, infos, thetas = replace(case, dtype=torch.float32), [], []
    for backend, place in (("cuda", DEVICE), ("reference", "cpu")):
        policy, batch = case.policy().to(place), to_device(case.batch(case.policy()), device=place)
        options = {} if name == "pg_update" else {"damping": 0.5}
        infos.append(UPDATES[name](policy, batch, backend=backend, **options))
        thetas.append(flat_params(policy))
    ours, theirs = infos
    assert (ours.backend, ours.reason) == ("cuda", theirs.reason) and ours.accepted
    for number in ("kl", "surrogate_before", "surrogate_after", "entropy", "gradient_norm"):
        wanted = getattr(theirs, number)
        assert getattr(ours, number) == pytest.approx(wanted, rel=2e-3, abs=2e-5), number
    assert relative_error(*thetas) <= SAME_STEP


def test_rows_beyond_the_chip():
    with small_device(multiprocessors=3, shared_kib=48):
        t = Trio(Case("categorical", (24, 16), "gelu", 400, weights=True))
        assert t.kernels.plan()["cached"]
        assert_same(t, CONFIG)


@pytest.mark.parametrize("precision", ["fp32", "fp16x3"])
@pytest.mark.parametrize("index", [-1, 33, 2**40])
@pytest.mark.parametrize("chunk_rows", [None, 16])
def test_products_of_no_row_are_flagged_not_followed(index, chunk_rows, precision):
    """With sync=False nobody has looked at the indices before the kernels do."""
    case = Case("gaussian", (8, 5), rows=33, dtype=torch.float32)
    policy, batch = case.policy().to(DEVICE), to_device(case.batch(case.policy()))
    rows = torch.tensor([1, 5, index], device=DEVICE)
    before = flat_params(policy).clone()
    options = {"fvp_rows": rows, "chunk_rows": chunk_rows, "precision": precision}
    info = trpo_update(policy, batch, backend="cuda", sync=False, **options)
    assert info.reason == "bad_values" and torch.equal(flat_params(policy), before)
    with pytest.raises(ValueError, match="fvp_rows: expected"):
        trpo_update(policy, batch, backend="cuda", **options)
    F = FisherOperator(policy, batch.obs, backend="cuda", sync=False, **options)
    assert (F @ before).isnan().all()


def bad(batch: Batch, name: str, value: float) -> Batch:
    changed = getattr(batch, name).clone()
    changed[2] = value
    return replace(batch, **{name: changed})


BAD = [
    ("obs", float("nan"), "bad_values"),
    ("obs", float("inf"), "bad_values"),
    ("actions", float("nan"), "bad_values"),
    ("advantages", float("inf"), "bad_values"),
    ("log_probs", float("nan"), "bad_values"),
    ("weights", -1.0, "bad_values"),
    ("weights", float("nan"), "bad_values"),
]


@pytest.mark.parametrize(("name", "value", "reason"), BAD)
def test_unusable_values_leave_every_bit(name, value, reason):
    case = Case("gaussian", (8, 5), rows=33, weights=True, dtype=torch.float32)
    policy = case.policy().to(DEVICE)
    batch = bad(to_device(case.batch(case.policy())), name, value)
    before = flat_params(policy).clone()
    info = trpo_update(policy, batch, backend="cuda", sync=False)
    assert info.reason == reason
    assert torch.equal(flat_params(policy), before) and info.step_size == 0


@pytest.mark.parametrize("choice", [-1, 4, 10**6])
def test_choices_out_of_range_are_flagged_not_followed(choice):
    case = Case("categorical", (8,), rows=33, dtype=torch.float32)
    policy = case.policy().to(DEVICE)
    batch = bad(to_device(case.batch(case.policy())), "actions", choice)
    assert trpo_update(policy, batch, backend="cuda", sync=False).reason == "bad_values"
    with pytest.raises(ValueError, match="actions: expected choices"):
        trpo_update(policy, batch, backend="cuda")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"advantages": 0.0}, "zero_gradient"),
        ({"advantages": 3e38}, "non_finite"),
        ({"weights": 0.0}, "bad_values"),
    ],
)
def test_no_step_from_such_a_batch(change, reason):
    case = Case("gaussian", (8, 5), rows=33, weights=True, dtype=torch.float32)
    policy = case.policy().to(DEVICE)
    batch = to_device(case.batch(case.policy()))
    batch = replace(batch, **{k: torch.full_like(getattr(batch, k), v) for k, v in change.items()})
    before = flat_params(policy).clone()
    assert trpo_update(policy, batch, backend="cuda", sync=False).reason == reason
    assert torch.equal(flat_params(policy), before)


@pytest.mark.parametrize("head", ["gaussian", "categorical"])
def test_a_step_past_all_numbers(head):
    for search, reason in ((False, "non_finite"), (True, "line_search_failed")):
        t = Trio(Case(head, (8, 5), activation="tanh", rows=33))
        before = t.kernels.problem.theta.clone()
        config = replace(CONFIG, max_kl=1e300, search=search, backtrack_steps=3)
        stats = numbers(t.kernels.update(config))
        assert REASONS[int(stats["reason"])] == reason and stats["step_size"] == stats["kl"] == 0
        assert torch.equal(t.kernels.problem.theta, before)


def test_padding_and_missing_log_probs():
    case = Case("multicategorical", (8, 5), rows=33, weights=True, masks=True)
    t, padded = Trio(case), Trio(case)
    padded.kernels = CudaOperator(replace(padded.kernels.problem, batch=poison(padded.batch)))
    assert torch.equal(t.kernels.update(CONFIG), padded.kernels.update(CONFIG))
    t = Trio(case)
    on_policy = problem(t.policy, replace(t.batch, log_probs=None))
    stats = numbers(CudaOperator(on_policy).update(CONFIG))
    assert stats["reason"] == 0 and stats["kl"] <= CONFIG.max_kl


def test_learning_through_the_public_functions():
    torch.manual_seed(0)
    policy = MLPPolicy(obs_dim=4, head=Gaussian(2), hidden=(16,)).to(DEVICE)
    obs = torch.randn(100, 4, device=DEVICE)
    actions = policy(obs).sample()
    log_probs = policy(obs).log_prob(actions).detach()
    batch = Batch(obs, actions, -actions.square().sum(-1), log_probs)
    for update in (trpo_update, npg_update):
        info = update(policy, batch, backend="cuda")
        assert info.accepted and info.backend == "cuda" and 0 < info.kl < 0.03
        assert info.surrogate_after > info.surrogate_before
