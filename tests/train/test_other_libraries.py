"""What somebody with a stable-baselines3 script tries first, and the sentence that comes back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")

import gymnasium
from envs_for_tests import Counting
from gymnasium import spaces

from trpo_fast import (
    TRPO,
    Batch,
    Categorical,
    Config,
    MLPPolicy,
    Penalty,
    evaluate,
    kl_penalty_update,
    npg_update,
    pg_update,
    trpo_update,
)

SETTINGS = [
    ({"n_steps": 512}, "n_steps: expected a setting, here rows_per_update"),
    ({"target_kl": 0.01}, "target_kl: expected a setting, here max_kl"),
    ({"cg_damping": 0.1}, "cg_damping: expected a setting, here damping"),
    ({"policy_kwargs": {}}, "policy_kwargs: expected a setting, here hidden"),
    ({"verbose": 1}, "verbose: expected a setting, here a trpo_fast.ConsoleLogger"),
    ({"gama": 0.9}, "gama: expected a setting such as 'gamma'"),
    ({"hidden": 64}, "hidden: expected a sequence of integers"),
    ({"critic_hidden": "64"}, "critic_hidden: expected a sequence of integers"),
    ({"seed": None}, "seed: expected a value, got None"),
    ({"activation": torch.nn.Tanh}, "activation: expected one of"),
]


@pytest.mark.parametrize(("settings", "sentence"), SETTINGS)
def test_settings(settings, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        TRPO("CartPole-v1", **settings)


@pytest.fixture(scope="module")
def agent():
    made = TRPO("CartPole-v1", num_envs=2, rows_per_update=32, critic_epochs=1)
    yield made
    made.close()


CALLS = [
    (lambda agent: agent.learn("1000"), "total_steps: expected a finite number"),
    (lambda agent: agent.learn(-1), "total_steps: expected a finite number of at least 0"),
    (
        lambda agent: agent.learn(32, checkpoint_every=0),
        "checkpoint_every: expected an integer of at least 1",
    ),
    (lambda agent: agent.learn(32, target_return="475"), "target_return: expected a finite"),
    (
        lambda agent: agent.learn(32, callbacks=object()),
        "callbacks: expected a function",
    ),
    (
        lambda agent: agent.learn(32, callbacks=[print, 3]),
        "callbacks: expected a function",
    ),
    (lambda agent: agent.predict((np.zeros(4), {})), "obs: expected an array of numbers, got tup"),
    (lambda agent: agent.predict("left"), "obs: expected an array of numbers, got str"),
    (lambda agent: agent.predict(None), "obs: expected"),
    (lambda agent: evaluate(agent.policy), "agent: expected a trpo_fast.TRPO, got MLPPolicy"),
    (lambda agent: evaluate(agent, episodes=0), "episodes: expected an integer of at least 1"),
]


@pytest.mark.parametrize(("call", "sentence"), CALLS)
def test_calls(agent, call, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        call(agent)


AGENTS = [
    (lambda: TRPO("MlpPolicy", "CartPole-v1"), ValueError, "env: expected the environment first"),
    (lambda: TRPO("MlpPolicy"), ValueError, "env: expected the environment first"),
    (lambda: TRPO("CartPole-v1", 0.99), TypeError, "settings: expected settings by name"),
    (
        lambda: TRPO(gymnasium.make("CartPole-v1")),
        ValueError,
        "env: expected an id or a function that makes it, as in lambda: .*, got one environment",
    ),
]


@pytest.mark.parametrize(("make", "kind", "sentence"), AGENTS)
def test_agents(make, kind, sentence):
    with pytest.raises(kind, match=f"^{sentence}"):
        make()


LEARN = [
    ({"total_timesteps": 32}, "total_timesteps: expected total_steps"),
    ({"total_steps": 32, "callback": print}, "callback: expected callbacks"),
    (
        {"total_steps": 32, "progress_bar": True},
        "progress_bar: expected a trpo_fast.ConsoleLogger",
    ),
    ({"total_steps": 32, "steps": 1}, "steps: expected an argument of learn, such as total_steps"),
    ({}, "total_steps: expected a number of environment steps, got none"),
]


@pytest.mark.parametrize(("arguments", "sentence"), LEARN)
def test_arguments_of_learn(agent, arguments, sentence):
    steps = agent.steps
    with pytest.raises(TypeError, match=f"^{sentence}"):
        agent.learn(**arguments)
    assert agent.steps == steps


@pytest.mark.parametrize(
    "space", [spaces.Sequence(spaces.Discrete(3)), spaces.Graph(spaces.Discrete(3), None)], ids=str
)
@pytest.mark.parametrize("engine", ["sync", "workers"])
def test_observations_of_no_fixed_size(space, engine):
    class Env(Counting):
        observation_space = space

    sentence = rf"^observation_space: expected Box, .*, got {type(space).__name__}\("
    with pytest.raises(ValueError, match=sentence):
        TRPO(Env, num_envs=2, engine=engine, workers=1)


def test_one_callback_needs_no_list(agent):
    seen = []
    agent.learn(32, callbacks=lambda agent, record: seen.append(record["steps"]))
    assert len(seen) == 1


def test_settings_by_position():
    with pytest.raises(TypeError, match=r"TRPO\(env, config=config\), got Config by position$"):
        TRPO("CartPole-v1", Config())


def test_optimisers_and_options():
    policy, other = MLPPolicy(4, Categorical(2)), MLPPolicy(4, Categorical(2))
    batch = Batch(torch.randn(8, 4), torch.randint(2, (8,)), torch.randn(8))
    with pytest.raises(ValueError, match=r"^optimizer: expected a torch.optim.Optimizer, got str"):
        pg_update(policy, batch, optimizer="adam")
    with pytest.raises(ValueError, match=r"^optimizer: expected one that holds the policy's"):
        pg_update(policy, batch, optimizer=torch.optim.Adam(other.parameters()))
    with pytest.raises(
        TypeError, match=r"^delta: expected one of the options \('max_kl', 'damping'"
    ):
        trpo_update(policy, batch, delta=0.01)
    for update, name, close in (
        (trpo_update, "cg_iters", "cg_iterations"),
        (npg_update, "kl_reduce", "kl_reduction"),
        (pg_update, "lr_rate", "learning_rate"),
    ):
        with pytest.raises(TypeError, match=rf"^{name}: expected an option such as '{close}'"):
            update(policy, batch, **{name: 3})
    with pytest.raises(TypeError, match=r"^cg_iters: expected an option such as 'cg_iterations'"):
        kl_penalty_update(policy, batch, Penalty(), cg_iters=3)
