"""The limit on the KL: annealed with the steps, smaller where the advantages say little, and
the same after a resume.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import Case

from trpo_fast import UpdateInfo, flat_params, trpo_update
from trpo_fast.core.problem import REASONS, STATS
from trpo_fast.train.config import Config
from trpo_fast.train.kl_schedule import SMALLEST_SHARE, TrustRegion, predicted_gain


def rows(deviation: float, mean: float = 3.0) -> torch.Tensor:
    """Advantages of a known deviation, whose mean must not matter."""
    return mean + deviation * torch.tensor([-1.0, 1.0]).repeat(32)


def test_without_settings_it_is_max_kl_to_the_last_bit() -> None:
    region = TrustRegion(Config(max_kl=0.037))
    for steps in (0, 12_345, 10**9):
        region.update_share(rows(1e-3))
        assert region.limit(steps) == 0.037


def test_the_length_of_a_step_goes_linearly_and_then_stays() -> None:
    region = TrustRegion(Config(max_kl=0.04, max_kl_final=0.0004, max_kl_steps=1000))
    lengths = [math.sqrt(region.limit(steps)) for steps in (0, 250, 500, 1000, 5000)]
    assert lengths == pytest.approx([0.2, 0.155, 0.11, 0.02, 0.02])


def test_it_stays_until_it_shall_move() -> None:
    region = TrustRegion(
        Config(max_kl=0.04, max_kl_final=0.0004, max_kl_hold=600, max_kl_steps=1000)
    )
    lengths = [math.sqrt(region.limit(steps)) for steps in (0, 600, 800, 1000, 5000)]
    assert lengths == pytest.approx([0.2, 0.2, 0.11, 0.02, 0.02])
    with pytest.raises(ValueError, match="max_kl_hold: expected less than max_kl_steps 10, got 10"):
        Config(max_kl_final=0.001, max_kl_hold=10, max_kl_steps=10)


def test_it_may_grow() -> None:
    region = TrustRegion(Config(max_kl=0.01, max_kl_final=0.04, max_kl_steps=10))
    assert region.limit(10) == pytest.approx(0.04)


def test_the_share_is_the_variance_over_its_mean_so_far() -> None:
    region = TrustRegion(Config(max_kl=0.01, scale_kl=True))
    deviations = [2.0, 4.0, 1.0, 0.1]
    limits = []
    for deviation in deviations:
        region.update_share(rows(deviation))
        limits.append(region.limit(0))
    variances = [deviation**2 for deviation in deviations]
    means = [sum(variances[: i + 1]) / (i + 1) for i in range(4)]
    expected = [0.01 * min(1.0, v / m) for v, m in zip(variances, means, strict=True)]
    assert limits == pytest.approx(expected, rel=1e-5)
    assert limits[:2] == [0.01, 0.01] and limits[3] < 2e-5


@pytest.mark.parametrize("deviation", [0.0, 1e-6])
def test_a_batch_that_says_nothing_has_a_limit_above_zero(deviation: float) -> None:
    region = TrustRegion(Config(max_kl=0.01, scale_kl=True))
    region.update_share(rows(deviation))
    assert region.limit(0) == 0.01  # the first one is its own mean
    region.update_share(rows(10.0))
    region.update_share(rows(deviation))
    assert region.limit(0) == 0.01 * SMALLEST_SHARE


def test_advantages_that_are_not_finite_leave_no_trace() -> None:
    region = TrustRegion(Config(scale_kl=True))
    region.update_share(rows(1.0))
    before = region.state_dict()
    region.update_share(torch.tensor([1.0, math.nan]))
    assert region.state_dict() == before


def test_a_saved_one_goes_on() -> None:
    config = Config(max_kl_final=0.002, max_kl_steps=100, scale_kl=True)
    whole, part = TrustRegion(config), TrustRegion(config)
    for region in (whole, part):
        region.update_share(rows(3.0))
    resumed = TrustRegion(config)
    resumed.load_state_dict(part.state_dict())
    for region in (whole, resumed):
        region.update_share(rows(0.7))
    assert whole.limit(50) == resumed.limit(50) < part.limit(50)


def info_of(rho: float, reason: str = "accepted", backtracks: int = 0) -> UpdateInfo:
    """An update whose surrogate rose by ``rho`` times what its step predicts, 0.5 * 0.04."""
    values = {"surrogate_before": 1.0, "surrogate_after": 1.0 + rho * 0.02, "step_size": 0.5}
    values |= {"linear_gain": 0.04, "backtracks": backtracks, "reason": REASONS.index(reason)}
    return UpdateInfo("cpu", torch.tensor([values.get(n, 0.0) for n in STATS]).double())


@pytest.mark.parametrize(
    ("info", "factor"),
    [
        (info_of(0.9), 2.0),
        (info_of(0.76), 2.0),
        (info_of(0.74), 1.0),
        (info_of(0.9, backtracks=1), 1.0),
        (info_of(0.5), 1.0),
        (info_of(0.1), 0.5),
        (info_of(0.1, backtracks=2), 0.5),
        (info_of(0.0, "line_search_failed"), 0.5),
        (info_of(0.0, "zero_gradient"), 1.0),
        (info_of(0.0, "bad_values"), 1.0),
    ],
)
def test_the_region_follows_the_gain_over_the_predicted_one(
    info: UpdateInfo, factor: float
) -> None:
    settings = {"max_kl": 0.01, "kl_factor": 2.0, "gain_poor": 0.2, "gain_good": 0.75}
    still, moving = (TrustRegion(Config(kl_rule=r, **settings)) for r in ("fixed", "gain"))
    for region in (still, moving):
        region.update_radius(info, 0)
    assert still.limit(0) == 0.01 and moving.limit(0) == pytest.approx(0.01 * factor)


def test_it_stays_within_its_bounds_and_comes_back_from_them_at_once() -> None:
    region = TrustRegion(Config(kl_rule="gain", max_kl=0.01, kl_factor=3.0, kl_most=0.05))
    for limit in (0.03, 0.05, 0.05):
        region.update_radius(info_of(1.0), 0)
        assert region.limit(0) == pytest.approx(limit)
    for limit in (0.05 / 3, 0.05 / 9, 0.05 / 27, 0.05 / 81, 0.05 / 243, 1e-4, 1e-4):
        region.update_radius(info_of(0.0), 0)
        assert region.limit(0) == pytest.approx(limit)


def test_bounds_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^max_kl: expected a number from kl_least .*, got 0\.5"):
        Config(kl_rule="gain", max_kl=0.5)
    with pytest.raises(ValueError, match=r"^gain_good: expected at least gain_poor 1, got 0\.9"):
        Config(kl_rule="gain", gain_poor=1.0)
    assert Config(max_kl=0.5).max_kl == 0.5


def test_it_multiplies_the_annealed_limit_and_a_saved_one_goes_on() -> None:
    options: dict[str, Any] = {
        "max_kl": 0.04,
        "max_kl_final": 0.0004,
        "max_kl_steps": 100,
        "kl_most": 0.5,
    }
    config = Config(kl_rule="gain", **options)
    region, resumed = TrustRegion(config), TrustRegion(config)
    region.update_radius(info_of(1.0), 0)
    resumed.load_state_dict(region.state_dict())
    for each in (region, resumed):
        each.update_radius(info_of(1.0), 50)
        assert each.limit(100) == pytest.approx(0.0004 * 1.5**2)
    state = region.state_dict()
    del state["radius"]  # as in checkpoints of before
    resumed.load_state_dict(state)
    assert resumed.limit(0) == pytest.approx(0.04)


def test_the_predicted_gain_is_the_gradients() -> None:
    """s x'Ax is s g'x where CG has solved A x = g, and small steps gain just that."""
    policy = Case(rows=129).policy()
    batch = Case(rows=129).batch(policy)
    before = flat_params(policy).clone()
    info = trpo_update(policy, batch, max_kl=1e-8, cg_iterations=400, cg_tol=1e-12)
    moved = flat_params(policy) - before
    flat_params(policy).copy_(before)
    value = (policy(batch.obs).log_prob(batch.actions) - batch.log_probs).exp() * batch.advantages
    parts = torch.autograd.grad(value.mean(), list(policy.parameters()))
    linear = float(torch.cat([p.reshape(-1) for p in parts]) @ moved)
    assert predicted_gain(info) == pytest.approx(linear, rel=1e-6)
    assert info.surrogate_after - info.surrogate_before == pytest.approx(linear, rel=1e-3)


def test_a_run_grows_where_steps_are_good_and_its_checkpoint_has_the_radius() -> None:
    pytest.importorskip("gymnasium")
    from trpo_fast.train.trainer import TRPO

    settings: dict[str, Any] = {"num_envs": 4, "rows_per_update": 256, "kl_factor": 2.0}
    agent = TRPO("CartPole-v1", kl_rule="gain", max_kl=1e-3, kl_most=8e-3, **settings)
    records = [agent.train_once() for _ in range(6)]
    limits = [record["max_kl"] for record in records]
    assert limits[0] == 1e-3 and max(limits) == pytest.approx(8e-3)
    assert all(r["kl"] <= (1 + 1e-6) * r["max_kl"] for r in records)
    assert agent.state()["trust_region"]["radius"] == pytest.approx(agent.trust_region.radius)
    agent.close()


@pytest.mark.parametrize("algorithm", ["trpo", "npg", "kl-penalty"])
def test_every_rule_that_has_a_limit_keeps_to_it(algorithm: str) -> None:
    pytest.importorskip("gymnasium")
    from trpo_fast.train.trainer import TRPO

    settings: dict[str, Any] = {
        "num_envs": 2,
        "rows_per_update": 64,
        "hidden": (16,),
        "critic_hidden": (16,),
    }
    settings |= {"max_kl": 0.01, "max_kl_final": 1e-4, "max_kl_steps": 192}
    agent = TRPO("CartPole-v1", algorithm=algorithm, **settings)
    records = [agent.train_once() for _ in range(5)]
    lengths = [0.1, 0.07, 0.04, 0.01, 0.01]
    assert [record["max_kl"] for record in records] == pytest.approx([x * x for x in lengths])
    if algorithm == "kl-penalty":
        assert agent.penalty.target_kl == pytest.approx(1e-4)
    else:
        slack = 1.0 + 1e-6 if algorithm == "trpo" else 1.5  # npg searches no line
        assert all(record["kl"] <= slack * record["max_kl"] for record in records)
    agent.close()


def test_the_record_of_a_rule_without_a_limit_has_none() -> None:
    pytest.importorskip("gymnasium")
    from trpo_fast.train.trainer import TRPO

    agent = TRPO("CartPole-v1", algorithm="pg", num_envs=2, rows_per_update=64)
    assert math.isnan(agent.train_once()["max_kl"])
    agent.close()
