"""GAE, returns and running statistics against brute force over random episodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from advantage_cases import brute_gae, brute_n_step, following_values, rollout

from trpo_fast.learner import advantage
from trpo_fast.learner.normalise import ObservationNormaliser, RewardScaler, RunningStatistics


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 3), (33, 5), (129, 2)])
@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_gae_equals_brute_force(shape: tuple[int, int], lam: float) -> None:
    r = rollout(*shape, seed=shape[0])
    following = following_values(r)
    done = r["terminated"] | r["truncated"]
    ours = advantage.gae(r["rewards"], r["values"], following, done, gamma=0.9, lam=lam)
    torch.testing.assert_close(ours, brute_gae(r, 0.9, lam), rtol=1e-12, atol=1e-12)


def test_lambda_one_gives_returns_minus_values() -> None:
    r = rollout(57, 4, seed=3)
    following = following_values(r)
    done = r["terminated"] | r["truncated"]
    ours = advantage.gae(r["rewards"], r["values"], following, done, gamma=0.97, lam=1.0)
    returns = advantage.discounted_returns(r["rewards"], following, done, gamma=0.97)
    torch.testing.assert_close(ours + r["values"], returns, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (33, 5), (129, 2)])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 31, 200])
def test_n_steps_equal_brute_force(shape: tuple[int, int], count: int) -> None:
    """Time limits are bootstrapped, terminations are not, and so is the end of the rollout."""
    r = rollout(*shape, seed=shape[0])
    rows = r["rewards"], r["values"], following_values(r), r["terminated"] | r["truncated"]
    ours = advantage.n_step(*rows, gamma=0.9, steps=count)
    torch.testing.assert_close(ours, brute_n_step(r, 0.9, count), rtol=1e-12, atol=1e-12)


def test_one_step_is_lambda_zero_and_all_steps_are_lambda_one() -> None:
    r = rollout(57, 4, seed=3)
    rows = r["rewards"], r["values"], following_values(r), r["terminated"] | r["truncated"]
    for count, lam in ((1, 0.0), (57, 1.0)):
        ours = advantage.n_step(*rows, gamma=0.97, steps=count)
        assert torch.equal(ours, advantage.gae(*rows, gamma=0.97, lam=lam))


@pytest.mark.parametrize("resets", [False, True])
def test_steps_of_episodes_are_counted_on(resets: bool) -> None:
    draw = torch.Generator().manual_seed(1)
    done = torch.rand(60, 4, generator=draw) < 0.15
    elapsed = torch.tensor([0, 7, 3, 1000])
    valid = None
    if resets:  # the row after an end is the reset
        valid = torch.cat((torch.ones_like(done[:1]), ~done[:-1]))
        done &= valid
        valid = torch.cat((torch.ones_like(done[:1]), ~done[:-1]))
    ours, now = advantage.episode_steps(done, elapsed, valid), elapsed.clone()
    for t in range(60):
        counts = torch.ones(4).bool() if valid is None else valid[t]
        assert torch.equal(ours[t][counts], now[counts])
        now = torch.where(done[t], 0, now + counts.long())


def test_weights_are_powers_of_the_discount_over_the_largest() -> None:
    weights = advantage.discount_weights(torch.tensor([[3, 5], [4, 900_000]]), 0.5)
    assert weights.tolist() == [[1.0, 0.25], [0.5, 0.0]]
    assert advantage.discount_weights(torch.tensor([0, 2]), 0.0).tolist() == [1.0, 0.0]
    assert advantage.discount_weights(torch.tensor([0, 2]), 1.0).tolist() == [1.0, 1.0]


def test_a_final_value_that_is_nan_stays_so() -> None:
    """Nothing else may stand in for it, least of all the next episode's first value."""
    values, last = torch.ones(2, 1), torch.ones(1)
    truncated = torch.tensor([[True], [False]])
    final = torch.full_like(values, torch.nan)
    following = advantage.next_values(values, last, torch.zeros_like(truncated), truncated, final)
    assert torch.isnan(following[0]) and float(following[1]) == 1.0


def test_next_step_autoreset_needs_no_final_values() -> None:
    values, last = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([4.0])
    terminated = torch.tensor([[False], [True], [False]])
    following = advantage.next_values(values, last, terminated)
    assert following.flatten().tolist() == [2.0, 0.0, 4.0]


def test_normalise_ignores_rows_of_weight_zero() -> None:
    advantages = torch.tensor([1.0, torch.nan, 3.0, 5.0])
    weights = torch.tensor([1.0, 0.0, 1.0, 2.0])
    ours = advantage.normalise(advantages, weights)
    kept = advantage.normalise(torch.tensor([1.0, 3.0, 5.0, 5.0]))
    torch.testing.assert_close(ours[[0, 2, 3]], kept[:3])
    assert advantage.normalise(torch.full((9,), 2.0)).abs().max() == 0


def test_explained_variance() -> None:
    target = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert float(advantage.explained_variance(target, target)) == 1.0
    assert float(advantage.explained_variance(torch.zeros(4), target)) == 0.0
    assert torch.isnan(advantage.explained_variance(target, torch.ones(4)))


def test_merged_batches_give_the_statistics_of_their_union() -> None:
    data = torch.randn(1000, 3, dtype=torch.float64) * 1e-3 + 1e6
    statistics = RunningStatistics(3)
    for part in data.split([1, 7, 500, 492]):
        statistics.merge(part)
    torch.testing.assert_close(statistics.mean, data.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(statistics.variance, data.var(0, unbiased=False), rtol=1e-6, atol=0)


def test_observations_become_standard_and_are_clipped() -> None:
    normaliser = ObservationNormaliser(2, clip=3.0)
    rows = torch.randn(4000, 2) * torch.tensor([5.0, 0.1]) + 7.0
    assert torch.equal(normaliser(torch.ones(1, 2)), torch.ones(1, 2))
    normaliser.update(rows)
    normal = normaliser(rows)
    torch.testing.assert_close(normal.mean(0), torch.zeros(2), atol=0.01, rtol=0)
    torch.testing.assert_close(normal.std(0), torch.ones(2), atol=0.03, rtol=0)
    assert float(normaliser(torch.full((1, 2), 1e9)).max()) == 3.0


def test_reward_scale_follows_the_discounted_return_across_rollouts() -> None:
    rewards, done = torch.rand(40, 2, dtype=torch.float64), torch.rand(40, 2) < 0.1
    whole, parts = RewardScaler(2, 0.9), RewardScaler(2, 0.9)
    whole(rewards, done)
    parts(rewards[:13], done[:13])
    parts(rewards[13:], done[13:])
    running, seen = np.zeros(2), []
    for reward, end in zip(rewards.numpy(), done.numpy(), strict=True):
        running = 0.9 * running + reward
        seen.append(running.copy())
        running[end] = 0.0
    expected = torch.as_tensor(np.var(np.array(seen)))
    for scaler in (whole, parts):
        torch.testing.assert_close(scaler.statistics.variance[0], expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(parts.running, torch.as_tensor(running), rtol=1e-9, atol=1e-12)


def test_statistics_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="expected statistics of size 3, got 2"):
        RunningStatistics(3).load_state_dict(RunningStatistics(2).state_dict())
