"""Tensor environments that are none of ours: they train and are evaluated by their protocol alone,
and what does not follow it is named where it is first seen.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

import gymnasium
from gymnasium import spaces
from small_runs import parameters

from trpo_fast import TRPO, evaluate
from trpo_fast.envs.tensor import TensorStep, make

pytestmark = pytest.mark.attack

SETTINGS: dict[str, Any] = {"rows_per_update": 32, "hidden": (4,), "critic_hidden": (4,)}


class Walk:
    """Copy i starts at i and ends after i + 3 steps, or never; pays one a step."""

    single_observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    single_action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, num_envs: int = 4, endless: bool = False) -> None:
        self.num_envs, self.device, self.endless = num_envs, torch.device("cpu"), endless
        self.count = torch.zeros(num_envs)

    def reset(self, seed: int | None = None) -> Tensor:
        self.count = torch.zeros(self.num_envs)
        return self.observe()

    def observe(self) -> Tensor:
        return torch.stack((torch.arange(self.num_envs).float(), self.count), 1)

    def step(self, actions: Tensor) -> Any:
        assert actions.shape == (self.num_envs, 1)
        self.count = self.count + 1
        final = self.observe()
        ended = (self.count >= torch.arange(self.num_envs) + 3) & (not self.endless)
        self.count = self.count.masked_fill(ended, 0.0)
        ones = torch.ones(self.num_envs)
        return SimpleNamespace(
            obs=self.observe(),
            rewards=ones,
            terminated=ended,
            truncated=torch.zeros_like(ended),
            final_obs=final,
        )


class Saved(Walk):
    def state(self) -> dict[str, Tensor]:
        return {"count": self.count.clone()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.count = state["count"].clone()


def test_an_environment_that_only_follows_the_protocol_trains_and_is_evaluated() -> None:
    agent = TRPO(Walk(), **SETTINGS).learn(64)
    assert set(agent.recent_lengths) == {3, 4, 5, 6}
    for episodes, lengths in ((4, [3, 4, 5, 6]), (2, [3, 4]), (6, [3, 3, 4, 4, 5, 6])):
        found = evaluate(agent, episodes, env=Walk())
        assert found.lengths == lengths and found.returns == [float(n) for n in lengths]


def test_an_agents_only_environment_goes_back_to_where_training_was() -> None:
    agents = [TRPO(Saved(), **SETTINGS).learn(40) for _ in range(2)]
    assert evaluate(agents[0], 5).lengths == [3, 3, 4, 5, 6]
    for agent in agents:
        agent.learn(64)
    assert torch.equal(*map(parameters, agents))
    assert list(agents[0].recent_returns) == list(agents[1].recent_returns)


def test_one_without_states_starts_new_episodes_and_says_so() -> None:
    agent = TRPO(Walk(), **SETTINGS).learn(40)
    with pytest.warns(UserWarning, match="episodes under way start anew, .*Walk has no state"):
        assert evaluate(agent, 4).lengths == [3, 4, 5, 6]
    agent.recent_lengths.clear()
    agent.learn(64)
    assert set(agent.recent_lengths) == {3, 4, 5, 6}


@pytest.mark.parametrize("engine", ["sync", "tensor"])
def test_endless_episodes_are_cut_and_the_cut_is_said(engine: str) -> None:
    endless = lambda: gymnasium.make("Pendulum-v1", max_episode_steps=10**9)  # noqa: E731
    env: Any = endless if engine == "sync" else Walk(2, endless=True)
    agent = TRPO(env, **SETTINGS, **({"num_envs": 2} if engine == "sync" else {}))
    with pytest.warns(UserWarning, match="max_steps: 3 of 3 episodes still went on after 20"):
        found = evaluate(agent, 3, max_steps=20)
    assert found.lengths == [20, 20, 20]
    if engine == "tensor":
        assert found.returns == [20.0] * 3
    with pytest.raises(ValueError, match="max_steps: expected an integer of at least 1, got 0"):
        evaluate(agent, 3, max_steps=0)


def test_an_episode_that_ends_at_the_last_step_is_not_cut(recwarn: Any) -> None:
    agent = TRPO("CartPole-v1", engine="tensor", num_envs=2, **SETTINGS)
    lengths = evaluate(agent, 4).lengths
    assert evaluate(agent, 4, max_steps=max(lengths)).lengths == lengths and not recwarn.list


def changed(**parts: Any) -> Any:
    """Walk whose steps have other parts."""

    class Changed(Walk):
        def step(self, actions: Tensor) -> Any:
            step = TensorStep(**vars(super().step(actions)))
            return replace(step, **{name: make(vars(step)[name]) for name, make in parts.items()})

    return Changed()


def added(**parts: Any) -> Any:
    """Walk whose steps have more parts."""

    class Added(Walk):
        def step(self, actions: Tensor) -> Any:
            step = TensorStep(**vars(super().step(actions)))
            return replace(step, **{name: make() for name, make in parts.items()})

    return Added()


class Tuples(Walk):
    def step(self, actions: Tensor) -> Any:
        step = super().step(actions)
        return step.obs, step.rewards, step.terminated, step.truncated, {}


class PairOfReset(Walk):
    def reset(self, seed: int | None = None) -> Any:
        return super().reset(seed), {}


class Unseeded(Walk):
    def reset(self) -> Tensor:  # type: ignore[override]
        return super().reset()


def without(name: str, value: Any = None) -> Any:
    env = Walk()
    setattr(env, name, value)
    return env


BUILT = [
    (lambda: without("step"), r"a method step\(actions\), got none"),
    (Unseeded, r"a method reset\(seed\), got one with too many positional arguments"),
    (lambda: without("num_envs"), "num_envs, an integer of at least 1, got None"),
    (lambda: without("single_action_space", 3), "single_action_space, a gymnasium space, got int"),
    (lambda: without("reset"), r"a method reset\(seed\), got none"),
    (lambda: without("critic_obs", Walk.observe), "both a method critic_obs.. and single_critic_"),
]
STEPPED = [
    (Tuples, r"step: expected an object with obs, .*, got tuple of 5 without obs"),
    (PairOfReset, "reset: expected a torch.Tensor, got tuple"),
    (lambda: changed(obs=lambda t: t[:, :1]), r"step.*obs: expected shape \[4, 2\], got \[4, 1\]"),
    (lambda: changed(final_obs=lambda t: t[0]), r"final_obs: expected shape \[4, 2\], got \[2\]"),
    (lambda: changed(rewards=lambda t: t[:, None]), r"rewards: expected shape \[4\], got \[4, 1\]"),
    (lambda: changed(rewards=lambda t: t.numpy()), "rewards: expected a torch.Tensor, got ndarray"),
    (
        lambda: changed(terminated=lambda t: t.to(torch.complex64)),
        "terminated: expected flags, bool or real numbers, got torch.complex64",
    ),
    (lambda: changed(truncated=lambda t: t[0]), r"truncated: expected shape \[4\], got \[\]"),
    (lambda: added(valid=lambda: torch.ones(3)), r"valid: expected shape \[4\], got \[3\]"),
    (lambda: added(final_rows=lambda: [1] * 4), "final_rows: expected a torch.Tensor, got list"),
    (
        lambda: changed(obs=lambda t: t.to("meta")),
        "obs: expected a tensor on cpu, .*, got one",
    ),
]


@pytest.mark.parametrize(("make", "sentence"), BUILT)
def test_what_an_environment_lacks_is_said_when_the_agent_is_made(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^env .*: expected {sentence}"):
        TRPO(make(), **SETTINGS)


@pytest.mark.parametrize(("make", "sentence"), STEPPED)
def test_what_an_environment_returns_is_looked_at_when_the_agent_is_made(
    make: Any, sentence: str
) -> None:
    with pytest.raises(ValueError, match=rf"^env\..*{sentence}"):
        TRPO(make(), **SETTINGS)
    with pytest.raises(ValueError, match=sentence):
        evaluate(TRPO(Walk(), **SETTINGS), 2, env=make())


def test_the_device_is_the_environments() -> None:
    env = make("LQR-v0", 2)
    env.device = torch.device("cuda", 5)
    with pytest.raises(ValueError, match=r"^device: expected cuda:5, where the environment"):
        TRPO(env, device="cpu", **SETTINGS)


def seeing(space: Any) -> Any:
    """An environment on the host with such observations."""

    class Seeing(gymnasium.Env):
        observation_space, action_space = space, spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
            super().reset(seed=seed)
            self.observation_space.seed(0)
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> Any:
            return self.observation_space.sample(), 1.0, False, False, {}

    return Seeing


BOXES = {
    "frames": spaces.Box(0, 255, (84, 84, 4), np.uint8),
    "tiny": spaces.Box(0, 255, (4, 4, 1), np.uint8),
    "grey": spaces.Box(0, 1, (84, 84), np.float32),
}
IMAGES = BOXES | {
    "camera": spaces.Dict(
        speed=spaces.Box(-1, 1, (2,)), camera=spaces.Box(0, 255, (8, 8, 3), np.uint8)
    ),
    "nested": spaces.Tuple((spaces.Discrete(2), spaces.Dict(a=spaces.Box(0, 1, (96, 96, 3))))),
}
ENGINES = ["sync", "workers", "async", "vector"]
SEEN = [(image, engine) for image in IMAGES for engine in ENGINES]


@pytest.mark.parametrize(("image", "engine"), [*SEEN, *((box, "tensor") for box in BOXES)])
def test_images_are_refused_with_what_to_do(image: str, engine: str) -> None:
    space = IMAGES[image]
    env, options = seeing(space), {"engine": engine, "num_envs": 2}
    if engine == "vector":
        env, options = gymnasium.vector.SyncVectorEnv([env] * 2), {}
    options |= {"policy": "mlp"}
    if engine == "tensor":
        env, options = without("single_observation_space", space), {}
    wanted = "^observation_space: expected numbers for layers or a cell, got an image .*Flatten"
    with pytest.raises(ValueError, match=wanted):
        TRPO(env, **SETTINGS, **options)


def test_an_image_that_was_flattened_on_purpose_is_taken() -> None:
    flat = gymnasium.wrappers.FlattenObservation
    for space in (IMAGES["tiny"], IMAGES["camera"]):
        agent = TRPO(lambda space=space: flat(seeing(space)()), num_envs=2, **SETTINGS)
        assert agent.learn(32).policy.spec.widths[0] in (16, 194)


@pytest.mark.parametrize("engine", ["sync", "workers"])
def test_a_small_matrix_is_flattened_with_one_warning(engine: str, recwarn: Any) -> None:
    matrix = seeing(spaces.Box(-1, 1, (3, 2)))
    agent = TRPO(matrix, num_envs=4, engine=engine, workers=1, **SETTINGS).learn(32)
    agent.close()
    said = [str(w.message) for w in recwarn if "flattened" in str(w.message)]
    assert len(said) == 1 and "observations of shape [3, 2] are flattened to 6 numbers" in said[0]
