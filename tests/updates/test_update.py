"""trpo_update and npg_update: the accepted step, every reason, and failures that move nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from backend_cases import AVAILABLE, setting
from cases import Case, few, poison
from exactness import relative_error

from trpo_fast import Batch, FisherOperator, flat_params, npg_update, pg_update, trpo_update
from trpo_fast.core.problem import STATS
from trpo_fast.core.reference import line_search


def setup(case=None):
    case = case or Case()
    policy = case.policy()
    return policy, case.batch(policy)


def mean_kl(policy, old, batch):
    with torch.no_grad():
        new = policy.distribution_params(batch.obs, batch.action_mask)
    kl = policy.head.kl(old, new)
    return float(kl.mean() if batch.weights is None else batch.weights @ kl / batch.weights.sum())


@pytest.mark.parametrize("backend", ["reference", "autograd"])
@pytest.mark.parametrize("case", few(), ids=str)
def test_accepted_step_keeps_its_promises(case, backend):
    policy, batch = setup(case)
    with torch.no_grad():
        old = policy.distribution_params(batch.obs, batch.action_mask)
    info = trpo_update(policy, batch, max_kl=0.01, backend=backend)
    assert info.accepted and info.backend == backend
    assert info.kl <= 0.01 and info.surrogate_after > info.surrogate_before
    assert info.kl == pytest.approx(mean_kl(policy, old, batch), rel=1e-9)
    assert info.max_state_kl >= info.kl and info.step_size > 0 and info.cg_iterations > 0


def test_step_is_the_normalised_natural_gradient():
    policy, batch = setup()
    theta = flat_params(policy).clone()
    F = FisherOperator(policy, batch.obs, damping=0.1).dense()
    ratio = (batch.advantages * policy(batch.obs).log_prob(batch.actions)).mean()
    g = torch.cat([p.reshape(-1) for p in torch.autograd.grad(ratio, list(policy.parameters()))])
    x = torch.linalg.solve(F, g)
    beta = (2 * 0.01 / (x @ F @ x)).sqrt()
    info = trpo_update(policy, batch, cg_iterations=400, cg_tol=1e-12)
    step = beta * 0.8**info.backtracks * x
    assert relative_error(flat_params(policy) - theta, step) < 1e-7
    assert info.gradient_norm == pytest.approx(float(g.norm()), rel=1e-10)
    assert info.quad == pytest.approx(float(x @ F @ x), rel=1e-7)


@pytest.mark.parametrize("case", few(), ids=str)
def test_padding_and_chunks_change_nothing(case):
    results = []
    for change in (lambda b: b, poison):
        for chunk_rows in (None, 10):
            policy, batch = setup(case)
            trpo_update(policy, change(batch), chunk_rows=chunk_rows, backend="reference")
            results.append(flat_params(policy).clone())
    assert all(relative_error(r, results[0]) < 1e-10 for r in results[1:])


def test_groups_match_the_written_formula():
    policy, batch = setup(Case(rows=32, weights=True, group_size=4))
    batch = replace(batch, log_probs=batch.log_probs + 0.3 * torch.randn(32, dtype=torch.float64))
    ratio = (policy(batch.obs).log_prob(batch.actions) - batch.log_probs).exp()
    mass = (batch.weights * ratio).view(8, 4)
    group = (mass * batch.advantages.view(8, 4)).sum(1) / mass.sum(1)
    share = batch.weights.view(8, 4).sum(1)
    value = (share * group).sum() / share.sum()
    parts = torch.autograd.grad(value, list(policy.parameters()))
    gradient = torch.cat([g.reshape(-1) for g in parts])
    theta = flat_params(policy).clone()
    for backend in ("reference", "autograd"):
        info = trpo_update(policy, batch, backend=backend)
        flat_params(policy).copy_(theta)
        assert info.surrogate_before == pytest.approx(float(value.detach()), rel=1e-12)
        assert info.gradient_norm == pytest.approx(float(gradient.norm()), rel=1e-12)


def failing():
    """A change to a good batch or its options, and the reason the update must give."""

    def infinite(batch):
        log_probs = torch.full_like(batch.log_probs, -800.0)
        return replace(batch, log_probs=log_probs)

    zero = lambda b: replace(b, advantages=torch.zeros_like(b.advantages))  # noqa: E731
    same = lambda b: b  # noqa: E731
    nan = lambda b: replace(b, advantages=b.advantages * float("nan"))  # noqa: E731
    return [
        ("zero_gradient", zero, {}),
        ("bad_values", nan, {}),
        ("non_finite", infinite, {}),
        ("line_search_failed", same, {"max_kl": 1e-300}),
    ]


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("reason, change, options", failing(), ids=lambda v: str(v)[:20])
def test_failure_leaves_every_bit(reason, change, options, sync):
    policy, batch = setup()
    before = flat_params(policy).clone()
    if reason == "bad_values" and sync:
        with pytest.raises(ValueError, match="advantages: expected finite values, got nan"):
            trpo_update(policy, change(batch), sync=True)
    else:
        info = trpo_update(policy, change(batch), sync=sync, **options)
        assert info.reason == reason and not info.accepted and info.step_size == 0
    assert torch.equal(flat_params(policy), before)


def test_negative_curvature_is_reported(monkeypatch):
    from trpo_fast.backends.reference import ReferenceOperator

    monkeypatch.setattr(ReferenceOperator, "fvp", lambda self, v: -v)
    policy, batch = setup()
    before = flat_params(policy).clone()
    assert trpo_update(policy, batch, backend="reference").reason == "negative_curvature"
    assert torch.equal(flat_params(policy), before)


def test_line_search_takes_the_first_acceptable():
    theta, step = torch.zeros(1), torch.ones(1)
    tried = []

    def evaluate(candidate):
        tried.append(float(candidate))
        return candidate.abs().sum() - 0.3, -(candidate - 0.3).abs().sum() + 1

    j, chosen, found = line_search(
        evaluate, theta, step, max_kl=0.1, before=torch.tensor(0.5), ratio=0.5, steps=5
    )
    assert bool(found) and int(j) == 2 and float(chosen) == 0.25 and tried == [1.0, 0.5, 0.25]


def test_reverse_direction_and_mean_reduction():
    policy, batch = setup()
    with torch.no_grad():
        old = policy.distribution_params(batch.obs)
    info = trpo_update(policy, batch, kl_direction="reverse", kl_reduction="mean")
    with torch.no_grad():
        new = policy.distribution_params(batch.obs)
    assert info.kl == pytest.approx(float(policy.head.kl(new, old).mean()) / 3, rel=1e-9)


def test_natural_gradient_steps():
    policy, batch = setup()
    theta = flat_params(policy).clone()
    info = npg_update(policy, batch, learning_rate=0.05, cg_iterations=400, cg_tol=1e-12)
    fixed = flat_params(policy) - theta
    flat_params(policy).copy_(theta)
    scaled = npg_update(policy, batch, max_kl=0.02, cg_iterations=400, cg_tol=1e-12)
    normalised = flat_params(policy) - theta
    assert info.step_size == 0.05 and scaled.backtracks == 0
    assert relative_error(normalised / scaled.step_size, fixed / 0.05) < 1e-9
    assert scaled.step_size == pytest.approx((2 * 0.02 / scaled.quad) ** 0.5)


TOO_FAR = [
    (npg_update, {"learning_rate": 3e38, "damping": 0.0}, "non_finite"),
    (npg_update, {"max_kl": 1e300}, "non_finite"),
    (pg_update, {"learning_rate": 1e300}, "non_finite"),
    (trpo_update, {"max_kl": 1e300, "backtrack_steps": 3}, "line_search_failed"),
]


@pytest.mark.parametrize("backend", AVAILABLE)
@pytest.mark.parametrize("hidden", [(8, 5), ()], ids=str)
@pytest.mark.parametrize(
    "update, options, reason", TOO_FAR, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_a_step_past_all_numbers(update, options, reason, hidden, backend):
    for head in ("gaussian", "categorical"):
        policy, batch = setting(Case(head, hidden, dtype=torch.float32), backend)
        before = flat_params(policy).clone()
        info = update(policy, batch, backend=backend, **options)
        assert info.reason == reason and info.step_size == 0 and info.kl == 0
        assert info.surrogate_after == info.surrogate_before
        assert torch.equal(flat_params(policy), before)


def test_info_stays_a_tensor_until_read():
    policy, batch = setup()
    info = trpo_update(policy, batch, sync=False)
    assert info._values is None and info.stats.shape == (len(STATS),)
    assert info.accepted and info._values is not None
    assert set(info.as_dict()) == {"backend", *STATS}


def test_equal_inputs_give_equal_bits():
    flats = []
    for _ in range(2):
        policy, batch = setup(Case(dtype=torch.float32, rows=129))
        trpo_update(policy, batch)
        flats.append(flat_params(policy).clone())
    assert torch.equal(*flats)


def test_an_info_prints_every_number_and_waits_once(monkeypatch):
    policy, batch = setup()
    info = trpo_update(policy, batch)
    shown = repr(info)
    assert shown.startswith(f"UpdateInfo(accepted, backend={info.backend!r}, kl=")
    for name in STATS[1:]:
        assert f"{name}={getattr(info, name):.6g}" in shown
    asked = trpo_update(policy, batch, sync=False)
    waits = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: waits.append(x) or tolist(x))
    assert str(asked) == repr(asked) and "tensor" not in str(asked) and len(waits) == 1


def test_a_batch_and_a_solution_print_shapes():
    case = Case("multicategorical", rows=7, weights=True, masks=True, dtype=torch.float32)
    policy, batch = setup(case)
    assert repr(batch) == (
        "Batch(obs=float32 [7, 5], actions=int64 [7, 3], advantages=float32 [7], "
        "log_probs=float32 [7], weights=float32 [7], action_mask=bool [7, 6])"
    )
    assert repr(Batch(batch.obs.double().to("meta"), group_size=7)) == (
        "Batch(obs=float64 [7, 5] on meta, group_size=7)"
    )
    g = torch.ones(flat_params(policy).numel(), 2)
    found = FisherOperator(policy, batch.obs).solve(g)
    names = ("quad", "residual_norm", "iterations", "linear_gain", "restarts")
    numbers = ", ".join(f"{n}={getattr(found, n).tolist()}" for n in names)
    size = f"x=float32 [{len(g)}, 2]"
    assert repr(found) == f"Solution({size}, {numbers}, factor_rows=0, scaled_blocks=0)"


@pytest.mark.parametrize("damping", [0.01, 0.1, 1.0])
def test_damping_keeps_the_full_step_within_the_kl(damping):
    """The KL of the step is x'Fx / x'(F + damping I)x of the limit, up to the third order."""
    policy, batch = setup()
    theta, F = flat_params(policy).clone(), FisherOperator(policy, batch.obs, damping=0.0)
    matrix = F.dense()
    limit = 1e-8
    info = trpo_update(policy, batch, max_kl=limit, damping=damping, cg_iterations=200)
    x = (flat_params(policy) - theta) / info.step_size
    assert info.accepted and info.backtracks == 0
    assert info.kl == pytest.approx(limit * float(x @ matrix @ x) / info.quad, rel=1e-2)
