"""Collectors: every row is a transition that happened, and bootstraps come from the right
observation.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("gymnasium")

import gymnasium
from envs_for_tests import Counting, Failing, Masked
from gymnasium import spaces

from trpo_fast.actor import Actor, ActTensors
from trpo_fast.collect import HostCollector
from trpo_fast.collect_tensor import TensorCollector
from trpo_fast.envs import tensor
from trpo_fast.envs.actions import ActionMap
from trpo_fast.envs.engines import make_host
from trpo_fast.envs.host import EnvError, HostEnvs
from trpo_fast.normalize import ObservationNormaliser
from trpo_fast.rollout import EpisodeLog, Layout, Rollout


class Scripted(Actor):
    """Values an observation (episode, step) at 100 episode + step; acts by the mask, or with
    ones.
    """

    def bind(self, tensors: ActTensors) -> Callable[[], None]:
        def act() -> None:
            tensors.actions.fill_(1)
            if tensors.mask is not None:
                tensors.actions.copy_(tensors.mask.int().argmax(-1))
            tensors.values.copy_(self.values(tensors.obs))

        return act

    def values(self, obs: Tensor) -> Tensor:
        return 100.0 * obs[:, 0] + obs[:, 1]


def collector(envs: HostEnvs, steps: int, **options: Any) -> HostCollector:
    layout = Layout(steps, envs.num_envs, envs.obs_dim, (), True, **options)
    result = HostCollector(envs, Scripted(), layout, ActionMap(envs.action_space))
    result.start(seed=0)
    return result


def transitions(rollout: Rollout) -> list[list[tuple[float, ...]]]:
    """(episode, step, reward, terminated, truncated, following) of every real row, per
    environment.
    """
    columns = torch.stack(
        (rollout.obs[..., 0], rollout.obs[..., 1], rollout.rewards, rollout.following), -1
    )
    valid = torch.ones_like(rollout.done) if rollout.valid is None else rollout.valid
    ends = torch.stack((rollout.terminated, rollout.truncated), -1)
    return [
        [
            (*c[:3].tolist(), *e.tolist(), float(c[3]))
            for c, e, v in zip(columns[:, i], ends[:, i], valid[:, i], strict=True)
            if v
        ]
        for i in range(columns.shape[1])
    ]


def expected(rows: int, length: int = 4) -> list[tuple[float, ...]]:
    """What Counting does: the value after a truncation is that of its final observation."""
    result = []
    for i in range(rows):
        episode, step = divmod(i, length)
        over, cut = step == length - 1, episode % 3 == 2
        value = 0.0 if over and not cut else 100.0 * episode + step + 1
        result.append(
            (float(episode), float(step), step + 1.0, over and not cut, over and cut, value)
        )
    return result


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
    for ours in transitions(collect.collect()):
        assert ours == expected(len(ours) + 3)[3:]


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


def test_a_mask_of_another_width_is_a_sentence() -> None:
    envs = make_host(Masked, 2)
    with pytest.raises(EnvError, match="expected 4 choices for each of 2 copies"):
        collector(envs, 3, mask_width=4)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", "failed in step: ZeroDivisionError: the simulator is broken"),
        (
            "nan",
            "returned nan as component 0 of the observation of copy 0, 6 steps into the rollout",
        ),
        ("reward", "returned reward inf from copy 0, 5 steps into the rollout"),
        ("shape", "failed in step: ValueError"),
    ],
)
@pytest.mark.parametrize("engine", ["sync", "workers", "async"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_misbehaving_environments_are_named(how: str, message: str, engine: str) -> None:
    envs = make_host(lambda: Failing(how), 2, engine=engine, workers=1)
    with pytest.raises(EnvError, match=message):
        collector(envs, 20).collect()
    if engine == "workers":
        envs.close()


def test_a_killed_worker_is_a_clear_error() -> None:
    envs = make_host(Counting, 2, engine="async")
    collect = collector(envs, 5)
    collect.collect()
    victim = envs.venv.processes[1]
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    with pytest.raises(EnvError, match="a worker process died"):
        collect.collect()


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


class LastValue(Scripted):
    def values(self, obs: Tensor) -> Tensor:
        return obs[:, 0]


@pytest.mark.parametrize(
    ("space", "mode", "stored", "wanted"),
    [
        (spaces.Box(-2, 4, (2,)), "clip", [[-3.0, 1.0]], [[-2.0, 1.0]]),
        (spaces.Box(-2, 4, (2,)), "scale", [[-3.0, 0.5]], [[-2.0, 2.5]]),
        (spaces.Box(-2, 4, (1,)), "squash", [[0.5]], [[1.0 + 3.0 * np.tanh(0.5)]]),
        (spaces.Box(-np.inf, np.inf, (1,)), "scale", [[7.0]], [[7.0]]),
        (spaces.Box(0, 1, (2, 2)), "clip", [[0.5, 2.0, -1.0, 0.0]], [[[0.5, 1.0], [0.0, 0.0]]]),
        (spaces.Box(0, 4, (2, 2), np.float64), "scale", [[0.5, 2.0, -1.0, 0]], [[[3, 4], [0, 2]]]),
        (spaces.Box(0, 5, (2,), np.int32), "scale", [[-0.5, 0.5]], [[1, 3]]),
        (spaces.Discrete(3, start=5), "scale", [2], [7]),
        (spaces.MultiDiscrete([[3], [3]], start=[[1], [2]]), "scale", [[0, 1]], [[[1], [3]]]),
        (spaces.MultiBinary(2), "scale", [[1.0, 0.0]], [[1, 0]]),
    ],
)
def test_actions_reach_the_environment_in_its_units(
    space: Any, mode: str, stored: list, wanted: list
) -> None:
    integers = isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
    actions = np.array(stored, np.int64 if integers else np.float32)
    mapped = ActionMap(space, mode).host(actions)
    np.testing.assert_allclose(mapped, np.array(wanted), atol=1e-6)
    assert space.contains(mapped[0].astype(space.dtype)) and mapped.dtype == space.dtype
    device = ActionMap(space, mode).device(torch.from_numpy(actions)).numpy()
    np.testing.assert_allclose(device, mapped, atol=1e-6)
    assert (device.shape, device.dtype) == (mapped.shape, mapped.dtype)


def test_wrong_uses_are_refused() -> None:
    with pytest.raises(ValueError, match="action_mode: expected one of"):
        ActionMap(spaces.Discrete(2), "wrong")
    with pytest.raises(ValueError, match="without bounds, got 'squash'"):
        ActionMap(spaces.Box(-np.inf, np.inf, (1,)), "squash")
    with pytest.raises(ValueError, match="env: expected a gymnasium id"):
        make_host(7, 2)
    with pytest.raises(ValueError, match="engine: expected one of"):
        make_host("CartPole-v1", 2, engine="warp")
    with pytest.raises(ValueError, match="expected a vector environment that resets itself"):
        off = gymnasium.vector.AutoresetMode.DISABLED
        make_host(gymnasium.vector.SyncVectorEnv([Counting], autoreset_mode=off), 1)


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
