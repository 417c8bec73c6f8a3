"""What comes from a seed: different numbers for neighbouring seeds, copies and uses, the same for
the same.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv
from small_runs import SMALL, parameters

from trpo_fast import TRPO, evaluate
from trpo_fast._base.seeds import USES, derive, derive_all
from trpo_fast.policy.flat import flat_params

COPIES: dict[str, Any] = {**SMALL, "num_envs": 6, "engine": "sync"}


def starts(seed: int, **settings: Any) -> np.ndarray:
    """First observations [E, O] of training."""
    agent = TRPO("CartPole-v1", **{**COPIES, **settings}, seed=seed)
    agent.start()
    obs = np.asarray(agent.collector.obs).copy()
    agent.close()
    return obs


@pytest.mark.parametrize("engine", ["sync", "workers", "async", "tensor"])
def test_runs_of_neighbouring_seeds_share_no_start_state(engine: str) -> None:
    found = [starts(seed, engine=engine) for seed in (0, 1, 2)]
    assert len(np.unique(np.concatenate(found), axis=0)) == 18
    assert np.array_equal(found[1], starts(1, engine=engine))


def test_the_engine_does_not_decide_the_start_states() -> None:
    wanted = starts(5)
    for engine in ("workers", "async"):
        assert np.array_equal(wanted, starts(5, engine=engine))


def test_more_copies_leave_the_first_as_they_were() -> None:
    assert np.array_equal(starts(5, num_envs=3), starts(5)[:3])


def test_vector_environments_of_the_user_get_seeds_in_their_own_way() -> None:
    def made(seed: int, mode: str) -> np.ndarray:
        venv = gymnasium.make_vec("CartPole-v1", 3, vectorization_mode=mode)
        agent = TRPO(venv, rows_per_update=64, seed=seed)
        agent.start()
        return np.asarray(agent.collector.obs).copy()

    for mode in ("sync", "vector_entry_point"):  # the second takes one seed, and no list
        found = np.concatenate([made(seed, mode) for seed in (0, 1)])
        assert len(np.unique(found, axis=0)) == 6
        assert np.array_equal(made(0, mode), found[:3])


def test_an_evaluation_plays_no_episode_of_training_and_none_of_another_seed() -> None:
    firsts: list[np.ndarray] = []

    class Noting(gymnasium.Wrapper):
        def reset(self, **options: Any) -> Any:
            obs, info = self.env.reset(**options)
            if options.get("seed") is not None:
                firsts.append(np.array(obs))
            return obs, info

    agent = TRPO(lambda: Noting(gymnasium.make("CartPole-v1")), **SMALL, seed=4)
    agent.start()
    for seed in (4, 5):
        evaluate(agent, 2, seed=seed)
    assert len(np.unique(np.stack(firsts[-6:]), axis=0)) == 6


def test_initial_weights_and_exploration_do_not_share_their_numbers() -> None:
    agents = [TRPO("CartPole-v1", **SMALL, seed=seed) for seed in (3, 3, 4)]
    weights = [flat_params(agent.policy) for agent in agents]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    seeds = [agent.generator.initial_seed() for agent in agents]
    assert seeds[0] == seeds[1] and len({*seeds, 3, 4, derive(3, "weights")}) == 5


class Drawing(CartPoleEnv):
    """Pays what the process's global generators draw."""

    def step(self, action: Any) -> Any:
        obs, _, *rest = super().step(action)
        return (
            obs,
            random.random() + 10.0 * np.random.random() + 100.0 * float(torch.rand(())),
            *rest,
        )


def test_worker_processes_draw_other_numbers_in_runs_of_neighbouring_seeds() -> None:
    def draws(seed: int) -> list[float]:
        agent = TRPO(Drawing, **{**COPIES, "engine": "workers", "workers": 2}, seed=seed)
        agent.start()
        rewards = agent.collector.collect().rewards[:, 2:].flatten().tolist()  # the workers' copies
        agent.close()
        return rewards

    found = [draws(seed) for seed in (0, 1, 2, 3, 4)]  # seeds apart by less than the copies
    assert len({reward for rewards in found for reward in rewards}) == sum(map(len, found))


def test_a_restart_starts_new_episodes(tmp_path: Path) -> None:
    agent = TRPO("CartPole-v1", **SMALL).learn(64, checkpoint_path=tmp_path / "c")
    first = np.asarray(agent.collector.obs).copy()
    agent.collector.env_state = lambda: None  # type: ignore[method-assign]
    agent.save(tmp_path / "c")
    with pytest.warns(UserWarning, match="the episodes under way start anew"):
        found = [TRPO.load(tmp_path / "c") for _ in range(2)]
    obs = [np.asarray(agent.collector.obs) for agent in found]
    assert np.array_equal(*obs) and not np.array_equal(obs[0], first)
    assert not np.isin(obs[0], starts(0)).any()
    assert torch.equal(parameters(found[0]), parameters(agent))


def test_seeds_differ_by_every_part_they_are_derived_from() -> None:
    parts = [(s, u, i) for s in (0, 1, 2**32, 2**63 - 1) for u in USES for i in (0, 1, 2**32)]
    assert len({derive(*part) for part in parts}) == len(parts)
    assert derive_all(7, "copies", 3, 1) == derive_all(7, "copies", 9, 1)[:3]
    assert all(0 <= seed < 2**31 for seed in derive_all(2**63 - 1, "copies", 50))
    # Written down: resumed runs and published tables depend on them.
    assert (derive(0, "copies", 0, 0), derive(1, "exploration")) == (1051823301, 727063581)
