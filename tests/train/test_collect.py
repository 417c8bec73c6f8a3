"""Collectors: every row is a transition that happened, and bootstraps come from the right
observation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("gymnasium")

import gymnasium
from collect_cases import Scripted, collector, expected, transitions
from envs_for_tests import Counting, Masked

from trpo_fast.envs import tensor
from trpo_fast.envs.actions import ActionMap
from trpo_fast.envs.engines import make_host
from trpo_fast.learner.normalise import ObservationNormaliser
from trpo_fast.train.collect_host import HostCollector
from trpo_fast.train.collect_tensor import TensorCollector
from trpo_fast.train.rollout import EpisodeLog, Layout


def vector(kind: str, envs: int) -> Any:
    modes = gymnasium.vector.AutoresetMode
    mode = modes.NEXT_STEP if "next" in kind else modes.SAME_STEP
    cls = gymnasium.vector.AsyncVectorEnv if "async" in kind else gymnasium.vector.SyncVectorEnv
    return cls([Counting] * envs, autoreset_mode=mode)


@pytest.mark.parametrize("kind", ["sync same", "sync next"])
def test_a_rollout_after_an_interrupted_one_begins_where_that_ended(kind: str) -> None:
    envs = make_host(vector(kind, 2), 2)
    collect = collector(envs, 31)

    def interrupt(t: int) -> None:
        if t == 3:
            raise KeyboardInterrupt

    collect.before_step = interrupt
    with pytest.raises(KeyboardInterrupt):
        collect.collect()
    collect.before_step = None
    rollout = collect.collect()
    for ours in transitions(rollout):
        assert ours == expected(len(ours) + 3)[3:]
    assert set(rollout.returns) == {10.0} and set(rollout.lengths) == {4}


class Interrupted(Counting):
    """The second copy raises once, in its step number ``at``."""

    at = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        self.second = getattr(self, "second", False) or seed == 1
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        if self.second:
            type(self).at -= 1
            if type(self).at == 0:
                raise KeyboardInterrupt
        return super().step(action)


@pytest.mark.parametrize("at", [2, 4, 5])
def test_episodes_that_a_step_was_interrupted_in_are_left_out(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = collector(make_host(Interrupted, 2), 3)
    collect.start(0)
    monkeypatch.setattr(Interrupted, "at", at)
    with pytest.raises(KeyboardInterrupt):
        while True:
            collect.collect()
    state = collect.state()  # a checkpoint knows as well
    collect.episodes = EpisodeLog(2)
    collect.load_state(state)
    rollouts = [([*r.returns], [*r.lengths]) for r in (collect.collect() for _ in range(5))]
    assert {x for returns, _ in rollouts for x in returns} == {10.0}
    assert {x for _, lengths in rollouts for x in lengths} == {4}


@pytest.mark.parametrize("kind", ["sync same", "sync next", "async same", "async next"])
def test_every_row_is_a_transition_in_both_autoreset_modes(kind: str) -> None:
    envs = make_host(vector(kind, 2), 2)
    collect = collector(envs, 31)
    rows: list[list[tuple[float, ...]]] = [[], []]
    for _ in range(3):
        for ours, new in zip(rows, transitions(collect.collect()), strict=True):
            ours += new
    envs.close()
    for ours in rows:
        assert len(ours) == (93 if "same" in kind else 75)
        wanted = expected(len(ours) + 1)
        # The last row of a rollout is bootstrapped from the observation it led to, as any other.
        assert ours == wanted[: len(ours)]


@pytest.mark.parametrize("kind", ["sync same", "sync next"])
def test_episode_returns_and_lengths_cross_rollouts(kind: str) -> None:
    envs = make_host(vector(kind, 3), 3)
    collect = collector(envs, 7)
    rollouts = [collect.collect() for _ in range(6)]
    returns = [value for r in rollouts for value in r.returns]
    lengths = [value for r in rollouts for value in r.lengths]
    assert returns == [10.0] * len(returns) and lengths == [4] * len(lengths)
    assert len(returns) == 3 * (42 // 4 if kind == "sync same" else (42 + 1) // 5)


def test_episode_log_against_a_loop() -> None:
    draw = np.random.default_rng(0)
    log, running = EpisodeLog(5), np.zeros(5)
    for _ in range(4):
        rewards, done = draw.normal(size=(23, 5)), draw.random((23, 5)) < 0.2
        returns, _ = log.add(rewards, done, None)
        wanted = []
        for reward, end in zip(rewards, done, strict=True):
            running = running + reward
            wanted += running[end].tolist()
            running[end] = 0.0
        np.testing.assert_allclose(returns, wanted, atol=1e-12)


class MaskedByList(Masked):
    def _mask(self) -> Any:
        return super()._mask().tolist()


@pytest.mark.parametrize("kind", ["sync", "workers", "async"])
@pytest.mark.parametrize("env", [Masked, MaskedByList])
def test_action_masks_reach_the_actor_at_every_step(env: Any, kind: str) -> None:
    envs = make_host(env, 2, engine=kind, workers=1)
    rollout = collector(envs, 29, mask_width=3).collect()
    envs.close()
    assert rollout.mask is not None and rollout.mask.sum(-1).eq(1).all()
    assert torch.equal(rollout.actions, rollout.obs[..., 1].long() % 3)


@pytest.mark.parametrize("engine", ["sync", "workers", "async"])
def test_every_copy_has_a_seed_of_its_own(engine: str) -> None:
    envs = make_host("CartPole-v1", 5, engine=engine, workers=2)
    starts = [envs.reset(seed)[0].copy() for seed in (3, 3, 4)]
    envs.close()
    assert len(np.unique(starts[0], axis=0)) == 5 and np.array_equal(starts[0], starts[1])
    assert np.array_equal(starts[0][1:], starts[2][:-1])  # seed + i, as gymnasium has it


def test_observations_are_normalised_by_frozen_statistics() -> None:
    envs = make_host(Counting, 2)
    layout = Layout(10, 2, 2, (), True)
    normaliser = ObservationNormaliser(2, clip=0.5)
    normaliser.update(torch.randn(50, 2) + 2.0)
    collect = HostCollector(envs, Scripted(), layout, ActionMap(envs.action_space), normaliser)
    collect.start(0)
    rollout = collect.collect()
    torch.testing.assert_close(rollout.obs, normaliser(rollout.raw_obs))
    assert float(rollout.obs.abs().max()) == 0.5


def test_tensor_and_host_collectors_agree_on_cartpole() -> None:
    env = tensor.make("CartPole-v1", 3, dtype=torch.float64, seed=4)
    layout = Layout(60, 3, 4, (), True)
    ours = TensorCollector(env, Scripted(), layout, ActionMap(env.single_action_space))
    ours.start(seed=4)
    starts = env.physics.clone()
    rollout = ours.collect()
    for i in range(3):
        twin = gymnasium.make("CartPole-v1")
        twin.reset()
        twin.unwrapped.state = starts[i].numpy()
        over, t = False, 0
        while not over:
            obs, _, over, _, _ = twin.step(1)
            t += 1
            if not over:
                np.testing.assert_allclose(rollout.obs[t, i].numpy(), obs, atol=1e-6)
        assert bool(rollout.terminated[t - 1, i]) and float(rollout.following[t - 1, i]) == 0.0
    returns, lengths = ours.episodes()
    assert returns == [float(n) for n in lengths] and len(lengths) >= 3


def test_tensor_truncation_bootstraps_from_the_final_observation() -> None:
    env = tensor.make("LQR-v0", 2)
    env.max_episode_steps = 3
    collect = TensorCollector(
        env, LastValue(), Layout(4, 2, 1, (1,), False), ActionMap(env.single_action_space)
    )
    collect.start(seed=1)
    rollout = collect.collect()
    assert rollout.truncated[2].all() and not rollout.truncated[[0, 1, 3]].any()
    torch.testing.assert_close(rollout.following[2], rollout.obs[2, :, 0] + 1.0)
    assert not torch.equal(rollout.following[2], rollout.obs[3, :, 0])


@pytest.mark.parametrize("when", [0, 2, 7])
def test_episodes_of_tensors_survive_an_interrupted_rollout(when: int) -> None:
    env = tensor.make("LQR-v0", 2)
    env.max_episode_steps = 4
    layout = Layout(9, 2, 1, (1,), False)
    collect = TensorCollector(env, LastValue(), layout, ActionMap(env.single_action_space))
    collect.start(seed=1)
    step, rewards = env.step, []

    def noted(actions: Tensor) -> Any:
        rewards.append(step(actions))
        return rewards[-1]

    def interrupt(t: int) -> None:
        if t == when:
            raise KeyboardInterrupt

    env.step, collect.before_step = noted, interrupt
    with pytest.raises(KeyboardInterrupt):
        collect.collect()
    env.step, collect.before_step = step, None
    rollout = collect.collect()
    rows = torch.cat([torch.stack([s.rewards for s in rewards]), rollout.rewards]) if when else None
    rows = rollout.rewards if rows is None else rows
    first = 4 * (when // 4)
    assert set(rollout.lengths) == {4}
    assert rollout.returns[:2] == pytest.approx(rows[first : first + 4].sum(0).tolist())


def test_rewards_that_are_not_finite_do_not_stay_in_the_log() -> None:
    log, done = EpisodeLog(1), np.array([[False], [True]])
    assert log.add(np.array([[1.0], [np.nan]]), done, None) == ([1.0], [2])
    assert log.add(np.array([[1.0], [2.0]]), done, None) == ([3.0], [2])


class LastValue(Scripted):
    def values(self, obs: Tensor) -> Tensor:
        return obs[:, 0]


def test_wrong_uses_are_refused() -> None:
    with pytest.raises(ValueError, match="env: expected a gymnasium id"):
        make_host(7, 2)
    with pytest.raises(ValueError, match="engine: expected one of"):
        make_host("CartPole-v1", 2, engine="warp")
    with pytest.raises(ValueError, match="expected a vector environment that resets itself"):
        off = gymnasium.vector.AutoresetMode.DISABLED
        make_host(gymnasium.vector.SyncVectorEnv([Counting], autoreset_mode=off), 1)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_envpool_follows_its_seed() -> None:
    pytest.importorskip("envpool")

    def starts(seed: int, again: int | None = None) -> np.ndarray:
        envs = make_host("CartPole-v1", 4, engine="envpool", seed=seed)
        obs = envs.reset(seed)[0] if again is None else envs.reset(again)[0]
        envs.close()
        return obs.copy()

    assert np.array_equal(starts(1), starts(1)) and not np.array_equal(starts(1), starts(2))
    assert np.array_equal(starts(1, again=2), starts(2))
    assert np.array_equal(starts(3_000_000_000), starts(3_000_000_000 - 2**31))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_envpool_resets_on_the_next_step() -> None:
    pytest.importorskip("envpool")
    envs = make_host("CartPole-v1", 4, engine="envpool", seed=1)
    collect = collector(envs, 200)
    rollout = collect.collect()
    assert rollout.valid is not None
    resets = ~rollout.valid
    assert torch.equal(resets[1:], rollout.terminated[:-1]) and not resets[0].any()
    assert (rollout.rewards[resets] == 0).all() and (rollout.rewards[rollout.valid] == 1).all()
    assert rollout.returns == [float(n) for n in rollout.lengths]
