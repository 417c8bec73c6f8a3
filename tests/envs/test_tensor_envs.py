"""Tensor environments against gymnasium's, step by step, and their autoreset, time limit and
save/restore.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trpo_fast.envs import tensor

gym = pytest.importorskip("gymnasium")

IN_FLOAT64 = ["CartPole-v1", "Pendulum-v1", "Acrobot-v1"]
NAMES = [*IN_FLOAT64, "MountainCarContinuous-v0"]
# Gymnasium keeps this one's state in float32, so a float64 copy of it agrees to float32 rounding
# only.
TOLERANCE = {"MountainCarContinuous-v0": 1e-6}


def draw(env: gym.Env) -> np.ndarray:
    """A random action; a continuous one in float64, or gymnasium would round its force to
    float32.
    """
    action = np.asarray(env.action_space.sample())
    return action if action.dtype == np.int64 else action.astype(np.float64)


def as_tensor(action: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(action)[None]


@pytest.mark.parametrize("name", NAMES)
def test_equals_gymnasium_step_by_step(name: str) -> None:
    reference = gym.make(name)
    reference.action_space.seed(1)
    ours = tensor.make(name, 1, dtype=torch.float64)
    ours.reset()
    tolerance = TOLERANCE.get(name, 1e-12)
    for episode in range(4):
        reference.reset(seed=episode)
        ours.elapsed.zero_()
        for _ in range(ours.max_episode_steps):
            ours.physics = torch.as_tensor(np.array(reference.unwrapped.state, np.float64))[None]
            action = draw(reference)
            obs, reward, terminated, truncated, _ = reference.step(action)
            step = ours.step(as_tensor(action))
            np.testing.assert_allclose(step.final_obs[0].numpy(), obs, atol=max(tolerance, 1e-6))
            assert abs(float(step.rewards[0]) - reward) <= max(tolerance, 1e-12) * 10
            assert (bool(step.terminated[0]), bool(step.truncated[0])) == (terminated, truncated)
            if terminated or truncated:
                break


@pytest.mark.parametrize("name", IN_FLOAT64)
def test_free_running_trajectory_equals_gymnasium_in_float64(name: str) -> None:
    reference = gym.make(name)
    reference.reset(seed=3)
    reference.action_space.seed(3)
    ours = tensor.make(name, 1, dtype=torch.float64)
    ours.reset()
    ours.physics = torch.as_tensor(np.array(reference.unwrapped.state, np.float64))[None]
    for _ in range(150):
        action = draw(reference)
        _, _, terminated, truncated, _ = reference.step(action)
        step = ours.step(as_tensor(action))
        if terminated or truncated:
            assert bool(step.terminated[0] | step.truncated[0])
            break
        expected = np.array(reference.unwrapped.state, np.float64)
        np.testing.assert_allclose(ours.physics[0].numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", sorted(tensor.REGISTRY))
def test_spaces_match_gymnasium_and_observations_lie_inside(name: str) -> None:
    env = tensor.make(name, 5, seed=2)
    obs = env.reset()
    assert all(env.single_observation_space.contains(row.numpy()) for row in obs)
    if name not in ("LQR-v0", "Quadrotor-v0"):
        twin = gym.make(name)
        assert env.single_observation_space == twin.observation_space
        assert env.single_action_space == twin.action_space
        assert env.max_episode_steps == twin.spec.max_episode_steps


def test_lqr_moves_and_pays_as_the_notes_say() -> None:
    env = tensor.make("LQR-v0", 3, dtype=torch.float64)
    state = env.reset(seed=5)[:, 0]
    action = torch.tensor([[0.5], [-1.0], [2.0]], dtype=torch.float64)
    step = env.step(action)
    torch.testing.assert_close(step.final_obs[:, 0], state + action[:, 0])
    torch.testing.assert_close(step.rewards, -(state**2) - action[:, 0] ** 2)


def test_autoreset_keeps_the_final_observation_and_starts_anew() -> None:
    env = tensor.make("CartPole-v1", 3)
    env.reset(seed=0)
    env.physics[1, 0] = 2.399
    env.physics[1, 1] = 5.0
    env.elapsed[2] = 499
    step = env.step(torch.ones(3, dtype=torch.int64))
    assert step.terminated.tolist() == [False, True, False]
    assert step.truncated.tolist() == [False, False, True]
    assert float(step.final_obs[1, 0]) > 2.4 and float(step.obs[1].abs().max()) <= 0.05
    assert env.elapsed.tolist() == [1, 0, 0]
    torch.testing.assert_close(step.obs[0], step.final_obs[0])


def test_termination_wins_over_the_time_limit() -> None:
    env = tensor.make("CartPole-v1", 1)
    env.reset(seed=0)
    env.physics[0, 2] = 0.5
    env.elapsed[0] = 499
    step = env.step(torch.zeros(1, dtype=torch.int64))
    assert bool(step.terminated[0]) and not bool(step.truncated[0])


@pytest.mark.parametrize("name", sorted(tensor.REGISTRY))
def test_a_restored_state_repeats_the_same_bits(name: str) -> None:
    env = tensor.make(name, 4, seed=9)
    env.max_episode_steps = 20
    env.reset()
    saved = env.state()
    discrete = hasattr(env.single_action_space, "n")
    drawn = torch.Generator().manual_seed(0)
    shape = (40, 4) if discrete else (40, 4, *env.single_action_space.shape)
    actions = (torch.rand(shape, generator=drawn) * 2).to(
        torch.int64 if discrete else torch.float32
    )
    first = [env.step(a) for a in actions]
    env.load_state(saved)
    second = [env.step(a) for a in actions]
    assert all(torch.equal(a.obs, b.obs) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a.rewards, b.rewards) for a, b in zip(first, second, strict=True))


def test_unknown_names_and_bad_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="env: expected a tensor environment"):
        tensor.make("Nowhere-v0", 2)
    with pytest.raises(ValueError, match="num_envs: expected at least 1"):
        tensor.make("CartPole-v1", 0)
    with pytest.raises(ValueError, match="state: expected physics of shape"):
        tensor.make("CartPole-v1", 2).load_state({"physics": torch.zeros(3, 4)})
