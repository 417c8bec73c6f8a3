"""The quadrotor against a float64 reference that is written with vectors, quaternion products and
cross products, one copy at a time; its ends, and that something can be learned of it.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

from trpo_fast import TRPO
from trpo_fast.envs.tensor import Quadrotor, make
from trpo_fast.envs.tensor.quadrotor import ARM, DRAG, DT, GRAVITY, INERTIA, MASS, TURN

ARMS = ARM * np.array([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])  # rotors in the body
UP = np.array([0.0, 0.0, 1.0])


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of quaternions, real part first."""
    real = a[0] * b[0] - a[1:] @ b[1:]
    return np.array([real, *(a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:]))])


def rotated(q: np.ndarray, v: np.ndarray) -> np.ndarray:
    """q (0, v) q*."""
    mirrored = q * np.array([1.0, -1.0, -1.0, -1.0])
    return product(product(q, np.array([0.0, *v])), mirrored)[1:]


def slope(state: np.ndarray, forces: np.ndarray) -> np.ndarray:
    """Newton's and Euler's equations of the body."""
    v, q, w, inertia = state[3:6], state[6:10], state[10:], np.array(INERTIA)
    acceleration = rotated(q, UP) * forces.sum() / MASS - GRAVITY * UP - DRAG / MASS * v
    torque = sum(np.cross(arm, f * UP) for arm, f in zip(ARMS, forces, strict=True))
    torque = torque + TURN * UP * (forces @ np.array([1.0, -1.0, 1.0, -1.0]))
    turning = (torque - np.cross(w, inertia * w)) / inertia
    return np.array([*v, *acceleration, *(0.5 * product(q, np.array([0.0, *w]))), *turning])


def reference(state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
    """(next state, reward, terminated) of one copy."""
    a = np.clip(action, -1.0, 1.0)
    forces = (1.0 + a) * MASS * GRAVITY / 4.0
    k1 = slope(state, forces)
    k2 = slope(state + 0.5 * DT * k1, forces)
    k3 = slope(state + 0.5 * DT * k2, forces)
    k4 = slope(state + DT * k3, forces)
    new = state + DT / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
    new[6:10] /= np.linalg.norm(new[6:10])
    distance, spin = np.linalg.norm(new[:3]), np.linalg.norm(new[10:])
    upright = rotated(new[6:10], UP) @ UP
    reward = np.exp(-distance) + 0.2 * upright - 0.01 * spin**2 - 0.01 * (a @ a)
    return new, reward, bool(distance > 3.0 or spin > 20.0)


def test_it_equals_the_reference_in_float64() -> None:
    env = Quadrotor(8, dtype=torch.float64, seed=1)
    env.reset(seed=4)
    chance = np.random.default_rng(0)
    ended = np.zeros(8, bool)
    for step in range(80):
        states = env.physics.numpy().copy()
        actions = chance.normal(0.0, 0.2 if step < 40 else 1.0, (8, 4))
        found = env.step(torch.as_tensor(actions))
        wanted = [reference(*pair) for pair in zip(states, actions, strict=True)]
        over = np.array([w[2] for w in wanted])
        rewards = np.array([w[1] for w in wanted])
        np.testing.assert_allclose(found.rewards.numpy(), rewards, rtol=1e-9, atol=1e-9)
        assert np.array_equal(found.terminated.numpy(), over)
        new = torch.as_tensor(np.array([w[0] for w in wanted]))
        torch.testing.assert_close(found.final_obs, env.observe(new), rtol=1e-9, atol=1e-9)
        ended |= over
    assert ended.any()


def test_observations_hold_the_matrix_that_turns_body_into_world() -> None:
    env = Quadrotor(3, dtype=torch.float64)
    obs = env.reset(seed=0).numpy()
    for row, state in zip(obs, env.physics.numpy(), strict=True):
        axes = [rotated(state[6:10], axis) for axis in np.eye(3)]
        np.testing.assert_allclose(row[6:15].reshape(3, 3), np.array(axes).T, atol=1e-12)
        np.testing.assert_allclose(row[:6], state[:6])
        np.testing.assert_allclose(row[15:], state[10:] / 5.0)


def test_at_rest_it_hovers_and_has_the_whole_reward() -> None:
    env = Quadrotor(1, dtype=torch.float64)
    env.reset()
    env.physics = torch.eye(13, dtype=torch.float64)[6:7]
    for _ in range(50):
        step = env.step(torch.zeros(1, 4))
    torch.testing.assert_close(env.physics, torch.eye(13, dtype=torch.float64)[6:7])
    assert float(step.rewards[0]) == pytest.approx(1.2)


def test_float32_follows_float64() -> None:
    pair = [Quadrotor(64, dtype=dtype) for dtype in (torch.float32, torch.float64)]
    for env in pair:
        env.reset(seed=0)
    pair[1].physics = pair[0].physics.double()
    chance = torch.Generator().manual_seed(0)
    for _ in range(25):
        actions = 0.3 * torch.randn(64, 4, generator=chance)
        steps = [env.step(actions) for env in pair]
    torch.testing.assert_close(steps[0].final_obs.double(), steps[1].final_obs, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_it_learns_to_stay_longer() -> None:
    options = {"num_envs": 256, "rows_per_update": 16384, "seed": 1}
    agent = TRPO("Quadrotor-v0", engine="tensor", **options)
    first = agent.train_once()["length"]
    agent.learn(16384 * 11)
    assert agent.train_once()["length"] > 2.0 * first
    assert make("Quadrotor-v0", 2).num_envs == 2
