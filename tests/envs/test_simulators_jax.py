"""Brax through its adapter, on JAX's CPU: the dynamics are theirs, episodes end as they should,
states come back, and it trains. ``make simulators`` has an environment for it; MuJoCo Playground is
in test_simulators_page.py.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

os.environ.setdefault("JAX_PLATFORMS", "cpu")
pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")
pytest.importorskip("jax", reason="JAX is not installed (make simulators)")
pytest.importorskip("brax", reason="Brax is not installed (make simulators)")

import jax
from small_runs import parameters

from trpo_fast import TRPO, evaluate
from trpo_fast.envs.simulators import Brax

SETTINGS: dict[str, Any] = {"rows_per_update": 48, "hidden": (4,), "critic_hidden": (4,)}


def slider(groups: bool = False) -> Any:
    """A point on a line, pushed by its action; falls off at 1. Starts are random."""
    from brax.envs.base import State

    jnp = jax.numpy

    class Slider:
        action_size = 1

        def seen(self, place: Any, speed: Any) -> Any:
            both = jnp.stack((place, speed))
            if groups:
                return {"state": both[:1], "privileged_state": both}
            return both

        def reset(self, key: Any) -> Any:
            place = jax.random.uniform(key, (), minval=-0.5, maxval=0.5)
            speed = jnp.zeros(())
            info = {"first": place}
            return State(
                (place, speed), self.seen(place, speed), jnp.zeros(()), jnp.zeros(()), {}, info
            )

        def step(self, state: Any, action: Any) -> Any:
            place, speed = state.pipeline_state
            speed = speed + 0.1 * action[0]
            place = place + speed
            done = (jnp.abs(place) > 1.0).astype(jnp.float32)
            return state.replace(
                pipeline_state=(place, speed),
                obs=self.seen(place, speed),
                reward=1.0 - jnp.abs(place),
                done=done,
            )

    return Slider()


def by_hand(obs: Tensor, actions: Tensor, steps: int) -> tuple[Any, ...]:
    """The same step in float64 NumPy: (obs, reward, terminated, truncated) of each row."""
    place, speed = obs.double().numpy().T
    speed = speed + 0.1 * actions.double().numpy()[:, 0]
    place = place + speed
    over = np.abs(place) > 1.0
    return np.stack((place, speed), 1), 1.0 - np.abs(place), over, (steps >= 6) & ~over


def test_steps_are_theirs_and_ends_are_ours() -> None:
    env = Brax(slider(), 16, episode_length=6)
    obs, count = env.reset(3), np.zeros(16, int)
    chance = torch.Generator().manual_seed(0)
    kinds = set()
    for _ in range(25):
        actions = torch.empty(16, 1).uniform_(-3.0, 3.0, generator=chance)
        count += 1
        wanted = by_hand(obs, actions, count)
        step = env.step(actions)
        found = (step.final_obs, step.rewards, step.terminated > 0.5, step.truncated > 0.5)
        for got, want in zip(found, wanted, strict=True):
            np.testing.assert_allclose(got.numpy(), want, atol=1e-5)
        ended = wanted[2] | wanted[3]
        kinds |= {"over"} if wanted[2].any() else set()
        kinds |= {"late"} if wanted[3].any() else set()
        np.testing.assert_array_equal(step.obs[~ended], step.final_obs[~ended])
        starts = step.obs[ended]
        assert (starts[:, 1] == 0).all() and (starts[:, 0].abs() <= 0.5).all()
        assert len(set(starts[:, 0].tolist())) == len(starts)  # new ones, each another
        count[ended] = 0
        obs = step.obs
    assert kinds == {"over", "late"}


def test_it_compiles_once() -> None:
    env = Brax(slider(), 3)
    for seed in (0, 1):
        env.reset(seed)
        for _ in range(3):
            env.step(torch.zeros(3, 1))
    assert env._step._cache_size() == env._reset._cache_size() == 1


def test_repeated_actions_add_their_rewards_up_to_an_end() -> None:
    one, three = Brax(slider(), 8), Brax(slider(), 8, action_repeat=3, episode_length=6)
    obs = one.reset(1)
    assert torch.equal(obs, three.reset(1))
    actions = torch.full((8, 1), 1.5)
    total, over = torch.zeros(8), torch.zeros(8, dtype=torch.bool)
    for _ in range(3):
        step = one.step(actions)
        total += torch.where(over, 0.0, step.rewards)
        over |= step.terminated > 0.5
    whole = three.step(actions)
    torch.testing.assert_close(whole.rewards, total)
    assert torch.equal(whole.terminated > 0.5, over) and over.any() and not over.all()
    assert not (whole.truncated > 0.5).any()
    again = three.step(torch.zeros(8, 1))
    assert (again.truncated > 0.5)[~over & ~(again.terminated > 0.5)].all()


def test_a_seed_repeats_and_a_saved_state_goes_on(tmp_path: Path) -> None:
    whole = TRPO(Brax(slider(), 4, episode_length=6), **SETTINGS, seed=5).learn(192)
    half = TRPO(Brax(slider(), 4, episode_length=6), **SETTINGS, seed=5).learn(96)
    half.save(tmp_path / "c")
    resumed = TRPO.load(tmp_path / "c", Brax(slider(), 4, episode_length=6)).learn(96)
    assert torch.equal(parameters(whole), parameters(resumed))
    before = evaluate(whole, 3)
    assert before.returns == evaluate(resumed, 3).returns
    assert torch.equal(*(parameters(agent.learn(48)) for agent in (whole, resumed)))
    env = whole.envs
    state = env.state()
    with pytest.raises(ValueError, match="state: part_0: expected an array"):
        env.load_state({**state, "part_0": state["part_0"][:2]})


def test_a_group_of_the_critics_is_the_critics() -> None:
    env = Brax(slider(groups=True), 4, episode_length=6)
    agent = TRPO(env, **SETTINGS).learn(96)
    assert agent.policy.spec.widths[0] == 1 and agent.critic.net.spec.widths[0] == 2
    agent = TRPO(Brax(slider(groups=True), 4, critic=""), **SETTINGS)
    assert agent.critic.net.spec.widths[0] == 1
    with pytest.raises(ValueError, match=r"^policy: expected one of the observations \['priv"):
        Brax(slider(groups=True), 4, policy="pixels")


def test_it_learns_to_stay() -> None:
    env = Brax(slider(), 64, episode_length=20)
    agent = TRPO(env, rows_per_update=1280, hidden=(16,), critic_hidden=(16,), gamma=0.9, seed=1)
    before = agent.train_once()["return"]
    assert before < 8.0 < 14.0 < agent.learn(1280 * 25).train_once()["return"]


def test_braxs_own_environment_and_a_wrong_one() -> None:
    from brax import envs

    env = Brax(envs.get_environment("fast"), 4, episode_length=3)
    assert TRPO(env, **SETTINGS).learn(48).recent_lengths[0] == 3
    with pytest.raises(ValueError, match=r"^env: expected trpo_fast.envs.simulators.Brax\(env, n"):
        TRPO(envs.get_environment("fast"), **SETTINGS)
    with pytest.raises(ValueError, match=r"^env: expected an environment of Brax or MuJoCo"):
        Brax(object(), 4)
