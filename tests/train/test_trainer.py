"""The trainer end to end: it learns, resumes bit for bit, predicts and stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

import gymnasium
from envs_for_tests import Counting, Masked
from gymnasium import spaces
from small_runs import parameters

from trpo_fast.envs import tensor
from trpo_fast.train.collect_tensor import TensorCollector
from trpo_fast.train.evaluate import evaluate
from trpo_fast.train.targets import estimate
from trpo_fast.train.trainer import TRPO

SMALL: dict[str, Any] = {
    "num_envs": 2,
    "rows_per_update": 64,
    "hidden": (16,),
    "critic_hidden": (16,),
}


RESUMED = [
    ("CartPole-v1", {}),
    ("CartPole-v1", {"algorithm": "npg"}),
    ("CartPole-v1", {"algorithm": "pg"}),
    ("CartPole-v1", {"algorithm": "rat"}),
    ("CartPole-v1", {"engine": "async", "critic": "gauss_newton"}),
    ("CartPole-v1", {"engine": "workers", "workers": 1}),
    ("CartPole-v1", {"engine": "tensor"}),
    ("CartPole-v1", {"max_kl_final": 0.002, "max_kl_steps": 512, "scale_kl": True}),
    ("Pendulum-v1", {"algorithm": "kl-penalty", "normalize_rewards": True}),
    ("Pendulum-v1", {"engine": "tensor", "normalize_observations": True}),
    ("Acrobot-v1", {}),
    ("Hopper-v5", {"std": "state"}),
    ("Hopper-v5", {"engine": "workers", "workers": 1}),
    ("Ant-v5", {"action_mode": "squash"}),
]


@pytest.mark.parametrize(("env", "settings"), RESUMED, ids=lambda x: str(x))
def test_resumed_training_equals_uninterrupted_training(
    env: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    if env.endswith("-v5"):
        pytest.importorskip("mujoco")
    whole = TRPO(env, **SMALL, **settings).learn(256)
    part = TRPO(env, **SMALL, **settings).learn(128, checkpoint_path=tmp_path / "c")
    resumed = TRPO.load(tmp_path / "c").learn(128)
    assert torch.equal(parameters(whole), parameters(resumed))
    assert not torch.equal(parameters(part), parameters(resumed))
    assert whole.state().keys() == resumed.state().keys()
    assert list(whole.recent_returns) == list(resumed.recent_returns)
    for agent in (whole, part, resumed):
        agent.close()


def test_environments_without_an_adapter_restart_their_episodes_and_say_so(tmp_path: Path) -> None:
    TRPO(Counting, **SMALL).learn(64, checkpoint_path=tmp_path / "c")
    with pytest.warns(UserWarning, match="episodes under way start anew, because Counting has no"):
        resumed = TRPO.load(tmp_path / "c", Counting)
    assert resumed.steps == 64 and resumed.restarts == 1
    assert resumed.learn(64).steps == 128


class Opaque(gymnasium.Wrapper):
    """Keeps what cannot be saved."""

    def __init__(self) -> None:
        super().__init__(gymnasium.make("CartPole-v1"))
        self.thing = object()


@pytest.mark.parametrize(("env", "engine"), [(Opaque, "sync"), (Opaque, "async"), (None, "tensor")])
def test_every_copy_seed_and_restart_begins_somewhere_else(
    env: Any, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorCollector, "unsupported", lambda self: "the test says so")
    source, starts = env or "CartPole-v1", []
    for seed in (0, 100):
        agent = TRPO(source, engine=engine, seed=seed, **SMALL)
        agent.save(tmp_path / "c")
        starts.append(torch.as_tensor(agent.collector.obs).numpy().copy())
        agent.close()
    for _ in range(2):
        with pytest.warns(UserWarning, match="episodes under way start anew"):
            agent = TRPO.load(tmp_path / "c", env)
        starts.append(torch.as_tensor(agent.collector.obs).numpy().copy())
        agent.save(tmp_path / "c")
        agent.close()
    assert len(np.unique(np.concatenate(starts), axis=0)) == 8


LEARNS: list[dict[str, Any]] = [
    {},
    {"engine": "tensor", "num_envs": 64, "rows_per_update": 4096},
    {"algorithm": "rat"},
]


@pytest.mark.parametrize("settings", LEARNS, ids=str)
def test_it_learns_cartpole(settings: dict[str, Any]) -> None:
    agent = TRPO("CartPole-v1", seed=1, **settings)
    agent.learn(60_000, target_return=195.0)
    assert np.mean(agent.recent_returns) >= 195.0
    assert evaluate(agent, episodes=5).mean > 195.0


def test_masked_actions_are_never_taken() -> None:
    agent = TRPO(Masked, **SMALL).learn(128)
    assert agent.collector.layout.mask_width == 3
    assert agent.predict([0.0, 1.0], action_mask=[False, False, True]) == 2
    assert evaluate(agent, episodes=3).lengths == [4, 4, 4]


def boxed(action_space: Any) -> Any:
    class Env(Counting):
        def step(self, action: Any) -> Any:
            assert self.action_space.contains(action), f"{action} is not in {self.action_space}"
            return super().step(0)

    Env.action_space = action_space
    return Env


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-2, 3, (2,), np.float32),
        spaces.Box(0, 1, (2, 2), np.float64),
        spaces.Discrete(3, start=2),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiDiscrete([[2, 3], [1, 2]], start=[[1, 0], [0, 1]]),
        spaces.MultiBinary(3),
        spaces.MultiBinary([2, 2]),
    ],
    ids=str,
)
def test_every_action_space_trains_and_predicts(space: Any) -> None:
    agent = TRPO(boxed(space), **SMALL).learn(64)
    one = agent.predict(np.zeros(2, np.float32))
    many = agent.predict(np.zeros((5, 2), np.float32), deterministic=False)
    assert space.contains(np.asarray(one, space.dtype)) and np.shape(many) == (5, *space.shape)


def test_structured_observations_are_flattened() -> None:
    class Structured(Counting):
        observation_space = spaces.Dict({"a": spaces.Discrete(4), "b": spaces.Box(-1, 1, (2, 2))})

        def _obs(self) -> Any:
            return {"a": self.count % 4, "b": np.zeros((2, 2), np.float32)}

    assert TRPO(Structured, **SMALL).learn(64).policy.spec.widths[0] == 8


def test_a_tensor_environment_of_the_user_and_a_vector_environment_train() -> None:
    env = tensor.make("LQR-v0", 8, seed=0)
    agent = TRPO(env, rows_per_update=64).learn(128)
    assert agent.steps == 128 and isinstance(agent.predict(env.reset()), torch.Tensor)
    venv = gymnasium.make_vec("CartPole-v1", 3, vectorization_mode="sync")
    agent = TRPO(venv, rows_per_update=64).learn(100)
    assert agent.config.num_envs == 3 and 100 <= agent.steps < 166
    with pytest.raises(ValueError, match=r"^num_envs: expected the environment's 3, got 8$"):
        TRPO(venv, num_envs=8)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_envpool_trains_without_its_reset_rows(tmp_path: Path) -> None:
    pytest.importorskip("envpool")
    agent = TRPO("CartPole-v1", engine="envpool", **SMALL)
    records = [agent.train_once() for _ in range(4)]
    resets = 4 * 64 - agent.steps
    assert sum(record["rows"] for record in records) == agent.steps and resets >= agent.episodes - 2
    assert evaluate(agent, episodes=2).mean > 5
    agent.save(tmp_path / "c")
    agent = TRPO("CartPole-v1", engine="envpool", **SMALL)
    agent.start()
    starts = [agent.collector.obs]
    for restarts in (1, 2):
        with pytest.warns(UserWarning, match="EnvPool keeps its states to itself"):
            resumed = TRPO.load(tmp_path / "c")
        assert resumed.restarts == restarts and resumed.steps > 200
        starts.append(resumed.collector.obs)
        resumed.save(tmp_path / "c")
    other = TRPO("CartPole-v1", engine="envpool", seed=100, **SMALL)
    other.start()
    starts.append(other.collector.obs)
    assert len(np.unique(np.concatenate(starts), axis=0)) == 8


def test_reset_rows_count_in_no_statistics() -> None:
    """The same 80 transitions with both kinds of autoreset."""
    modes, agents = gymnasium.vector.AutoresetMode, []
    for mode, rows in ((modes.SAME_STEP, 80), (modes.NEXT_STEP, 98)):
        venv = gymnasium.vector.SyncVectorEnv([Counting] * 2, autoreset_mode=mode)
        options = {"normalize_rewards": True, "normalize_observations": True}
        agents.append(TRPO(venv, rows_per_update=rows, **options))
        assert agents[-1].train_once()["steps"] == 80
    for name in ("count", "mean", "spread"):
        for owner in ("normaliser", "reward_scaler"):
            ours, theirs = (getattr(getattr(a, owner).statistics, name) for a in agents)
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert float(agents[1].normaliser.statistics.mean[1]) == 1.5


def test_the_critic_may_be_fitted_to_a_part_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, seen = TRPO("CartPole-v1", critic_rows=0.25, **SMALL), []
    fit = agent.critic.fit
    monkeypatch.setattr(
        agent.critic, "fit", lambda o, r, **k: seen.append(len(o)) or fit(o, r, **k)
    )
    agent.learn(128)
    assert seen == [16, 16]


def test_learn_again_callbacks_and_early_stop() -> None:
    agent, seen = TRPO("CartPole-v1", **SMALL), []
    agent.learn(128, callbacks=[lambda a, record: seen.append(record["steps"])])
    agent.learn(64, callbacks=[lambda a, record: seen.append(record["steps"])])
    assert seen == [64, 128, 192]
    agent.learn(10_000, callbacks=[lambda a, record: False])
    assert agent.steps == 256
    for goes_on in (None, True, np.True_, 0.0, np.zeros(2)):
        agent.learn(128, callbacks=lambda a, record, answer=goes_on: answer)
    assert agent.steps == 896
    agent.learn(10_000, callbacks=[lambda a, record: np.False_, lambda a, r: True])
    assert agent.steps == 960
    agent.learn(100_000, target_return=5.0)
    assert len(agent.recent_returns) >= 20 and agent.steps < 2000


def test_the_record_says_where_the_time_went() -> None:
    record = TRPO("CartPole-v1", **SMALL).train_once()
    parts = [record[f"{part}_seconds"] for part in ("env", "act", "update", "critic")]
    assert min(parts) > 0 and abs(sum(parts) - record["seconds"]) < 1e-9
    assert 0 < record["learner_share"] < 1 and record["rows"] == 64


def test_explained_variance_is_of_the_returns_by_the_critics_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    def keep(agent: TRPO, rollout: Any) -> Any:
        seen.append(estimate(agent, rollout))
        return seen[-1]

    monkeypatch.setattr("trpo_fast.train.trainer.estimate", keep)
    agent = TRPO("CartPole-v1", **SMALL)
    for _ in range(3):
        record = agent.train_once()
        _, returns, values = (x if i == 0 else x.double() for i, x in enumerate(seen[-1]))
        wanted = 1.0 - (returns - values).var() / returns.var()
        assert record["explained_variance"] == pytest.approx(float(wanted), abs=1e-4)
        assert abs(float(wanted) - 1.0) > 1e-2


@pytest.mark.parametrize("engine", ["sync", "tensor"])
def test_a_rollout_follows_parameters_that_were_replaced(engine: str) -> None:
    agent = TRPO("CartPole-v1", engine=engine, **SMALL)
    agent.train_once()
    state = {name: value + 0.5 for name, value in agent.policy.state_dict().items()}
    agent.policy.load_state_dict(state, assign=True)
    rollout = agent.collect()
    obs, actions = rollout.obs.flatten(0, 1), rollout.actions.flatten(0, 1)
    wanted = agent.policy(obs).log_prob(actions)
    torch.testing.assert_close(rollout.log_probs.flatten(), wanted.detach())


def test_seeds_decide_everything() -> None:
    runs = [parameters(TRPO("CartPole-v1", seed=s, **SMALL).learn(128)) for s in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_start_states_and_exploration_are_drawn_independently() -> None:
    many = {"num_envs": 4096, "rows_per_update": 4096, "engine": "tensor"}
    for seed in (0, 1):
        agent = TRPO("Pendulum-v1", seed=seed, **SMALL | many)
        agent.start()
        angles = agent.envs.physics[:, 0].clone()
        rollout = agent.collect()
        noise = rollout.actions[0, :, 0] - agent.policy(rollout.obs[0]).mean[:, 0].detach()
        correlation = torch.corrcoef(torch.stack((angles, noise)))[0, 1]
        assert abs(float(correlation)) < 0.08  # five deviations; -0.33 with one seed for both


def test_workers_train_to_the_bits_of_one_process() -> None:
    def train(**settings: Any) -> torch.Tensor:
        agent = TRPO("CartPole-v1", num_envs=5, rows_per_update=100, seed=3, **settings).learn(400)
        agent.close()
        return torch.cat([parameters(agent), torch.tensor(list(agent.recent_returns))])

    sync = train()
    for workers in (1, 3):
        assert torch.equal(sync, train(engine="workers", workers=workers))
