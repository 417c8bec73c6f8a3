"""Environments that misbehave: a sentence says how, by copy and step, from every engine."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")

from collect_cases import Scripted, collector, expected, transitions
from envs_for_tests import Counting, Failing, Masked
from gymnasium import spaces

from trpo_fast.envs.actions import ActionMap
from trpo_fast.envs.engines import make_host
from trpo_fast.envs.gym.host import EnvError
from trpo_fast.train.collect_host import HostCollector
from trpo_fast.train.rollout import Layout

pytestmark = pytest.mark.attack


class LateMask(Masked):
    """Masks in the infos of steps only."""

    def reset(self, **options: Any) -> Any:
        return super().reset(**options)[0], {}


class OldReset(Counting):
    """Returns what gym before 0.26 wanted: no info."""

    def reset(self, **options: Any) -> Any:
        return super().reset(**options)[0]


class OldStep(Counting):
    """Returns what gym before 0.26 wanted: one flag."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated or truncated, info


@pytest.mark.parametrize("engine", ["sync", "workers"])
@pytest.mark.parametrize(("env", "call"), [(OldReset, "reset"), (OldStep, "step")])
def test_the_interface_of_old_gym_is_named(env: Any, call: str, engine: str) -> None:
    envs = make_host(env, 2, engine=engine, workers=1)
    with pytest.raises(EnvError, match=rf"failed in {call}: .*expects \(obs, info\) of reset and"):
        collector(envs, 20).collect()
    envs.close()


class BinaryMask(Masked):
    action_space = spaces.MultiBinary(3)


@pytest.mark.parametrize("engine", ["sync", "workers", "async"])
@pytest.mark.parametrize(
    ("env", "message"),
    [
        (LateMask, "gives action_mask in the info of step, .* come with every reset as well"),
        (BinaryMask, r"in the info of reset, expected none: a policy for MultiBinary\(3\) takes"),
    ],
)
def test_masks_that_nobody_would_look_at_are_refused(env: Any, message: str, engine: str) -> None:
    envs = make_host(env, 2, engine=engine, workers=1)
    discrete = isinstance(envs.action_space, spaces.Discrete)
    layout = Layout(1, 2, 2, () if discrete else (3,), discrete)
    collect = HostCollector(envs, Scripted(), layout, ActionMap(envs.action_space))
    collect._rows[0].act = lambda: collect.buffers.actions.zero_()
    with pytest.raises(EnvError, match=message):
        collect.start(0)
        collect.collect()
    envs.close()


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
        ("shape", r"failed in step: expected observations of shape \[2\], got \[5\] from copy"),
    ],
)
@pytest.mark.parametrize("engine", ["sync", "workers", "async"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_misbehaving_environments_are_named(how: str, message: str, engine: str) -> None:
    envs = make_host(lambda: Failing(how), 2, engine=engine, workers=1)
    with pytest.raises(EnvError, match=message):
        collector(envs, 20).collect()
    envs.close()


class Short(Counting):
    """One number in place of two: always, at the end of an episode, or of the second copy."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.when, self.copy = when, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        self.copy = self.copy if seed is None else seed
        return super().reset(seed=seed, options=options)

    def _obs(self) -> np.ndarray:
        last = self.count == self.length and self.episode == 2
        short = {"always": True, "end": last, "second": self.copy == 1}[self.when]
        return super()._obs()[: 1 if short else 2]


@pytest.mark.parametrize("engine", ["sync", "workers", "async"])
@pytest.mark.parametrize("when", ["always", "end", "second"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_engine_repeats_numbers_where_some_are_missing(when: str, engine: str) -> None:
    envs = make_host(lambda: Short(when), 2, engine=engine, workers=1)
    copy = "1" if when == "second" else r"\d"
    wanted = rf"expected observations of shape \[2\], got \[1\] from copy {copy}"
    with pytest.raises(EnvError, match=wanted):
        collector(envs, 20).collect()
    envs.close()


class NanAtTheEnd(Counting):
    """Final observations of truncated episodes are not finite, or those of all others."""

    def __init__(self, terminated: bool) -> None:
        super().__init__()
        self.at = terminated

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        bad = terminated if self.at else truncated
        return (obs * np.nan if bad else obs), reward, terminated, truncated, info


@pytest.mark.parametrize("engine", ["sync", "workers", "async"])
def test_a_final_observation_that_is_not_finite_is_named(engine: str) -> None:
    envs = make_host(lambda: NanAtTheEnd(False), 2, engine=engine, workers=1)
    wanted = "returned nan as component 0 of the final observation of copy 0, 12 steps into the"
    with pytest.raises(EnvError, match=wanted):
        collector(envs, 20).collect()
    envs.close()
    envs = make_host(lambda: NanAtTheEnd(True), 2, engine=engine, workers=1)
    assert transitions(collector(envs, 7).collect())[1] == expected(7)  # nobody reads it
    envs.close()


@pytest.mark.parametrize("steps", [5, 6])
def test_the_observation_after_the_last_row_is_looked_at(steps: int) -> None:
    collect = collector(make_host(lambda: Failing("nan"), 2), steps)
    if steps == 5:
        assert torch.isfinite(collect.collect().following).all()
    with pytest.raises(EnvError, match=r"observation of copy 0, [61] steps into the rollout"):
        collect.collect()


def test_a_killed_worker_is_a_clear_error() -> None:
    envs = make_host(Counting, 2, engine="async")
    collect = collector(envs, 5)
    collect.collect()
    victim = envs.venv.processes[1]
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    with pytest.raises(EnvError, match="a worker process died"):
        collect.collect()
