"""``TRPO`` with a policy that remembers: rollouts, sequences, critic, prediction, checkpoints."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from trpo_fast import (
    TRPO,
    BackendUnavailable,
    Categorical,
    FisherOperator,
    Gaussian,
    RecurrentPolicy,
    evaluate,
    flat_params,
)
from trpo_fast.core.batch import Batch
from trpo_fast.learner.recurrent import RecurrentCritic
from trpo_fast.train.export_formats import FORMATS
from trpo_fast.train.targets import critic_rows, estimate

SMALL = {
    "num_envs": 3,
    "rows_per_update": 60,
    "cell_width": 5,
    "hidden": (),
    "critic_hidden": (),
    "critic_epochs": 2,
    "critic_minibatch": 20,
}


def agent(env="CartPole-v1", policy="gru", **settings):
    return TRPO(env, policy=policy, seed=0, **{**SMALL, **settings})


class Counting(gym.Env):
    """Observes the number of its step, and ends, by turns, after 3 and 4 steps."""

    observation_space = gym.spaces.Box(-10.0, 10.0, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, truncates=False):
        self.episode, self.truncates = 0, truncates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.step_number = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.step_number += 1
        over = self.step_number == 3 + self.episode % 2
        obs = np.full(1, self.step_number, np.float32)
        return obs, 1.0, over and not self.truncates, over and self.truncates, {}


def test_starts_and_states_of_a_rollout_are_those_of_the_episodes():
    one = agent(Counting, num_envs=2, rows_per_update=20, normalize_observations=False)
    one.start()
    for _ in range(2):
        rollout = one.collect()
        first = rollout.obs[..., 0] == 0
        assert torch.equal(rollout.starts, first)
        state = rollout.states[0, :, :5]
        for t in range(10):
            params, state = one.policy.step(rollout.obs[t], state, rollout.starts[t])
            assert torch.equal(state, rollout.states[t + 1, :, :5])
            found = one.head.log_prob(params, rollout.actions[t])
            assert torch.equal(found, rollout.log_probs[t])
    assert not torch.equal(rollout.states[0], torch.zeros_like(rollout.states[0]))


@pytest.mark.parametrize("length", [None, 5])
def test_a_batch_is_whole_sequences_with_the_probabilities_of_the_rollout(length):
    one = agent("CartPole-v1", "lstm", sequence_length=length)
    one.start()
    one.collect()
    rollout = one.collect()
    batch, returns, _ = estimate(one, rollout)
    steps = length or 20
    assert batch.sequence_length == steps
    assert torch.equal(batch.obs.view(-1, 3, steps, 4)[0, 1], rollout.obs[:steps, 1])
    shape = (-1, steps)
    params = one.policy.distribution_params(
        batch.obs.unflatten(0, shape), batch.starts.view(shape), batch.state
    )
    found = one.head.log_prob(params, batch.actions)
    torch.testing.assert_close(found, batch.log_probs, rtol=1e-5, atol=1e-6)
    rows, _ = critic_rows(one, rollout, batch, returns)
    values = one.critic.values(rows)
    if length:
        torch.testing.assert_close(values.view(-1, 3, 5)[2, 1], rollout.values[10:15, 1])
    else:
        torch.testing.assert_close(values.view(3, 20).T, rollout.values)


@pytest.mark.parametrize("truncates", [False, True])
def test_a_vector_that_resets_in_a_step_of_its_own_gives_the_same_transitions(truncates):
    def make():
        return Counting(truncates)

    modes = gym.vector.AutoresetMode
    found = []
    for mode, rows in ((modes.SAME_STEP, 14), (modes.NEXT_STEP, 18)):
        envs = gym.vector.SyncVectorEnv([make], autoreset_mode=mode)
        one = agent(envs, num_envs=1, rows_per_update=rows, normalize_observations=False)
        one.start()
        rollout = one.collect()
        batch, returns, _ = estimate(one, rollout)
        kept = torch.ones(rows, dtype=torch.bool) if batch.weights is None else batch.weights > 0
        assert torch.equal(batch.starts[kept], batch.obs[kept, 0] == 0)
        params = one.policy.distribution_params(batch.obs[None], batch.starts[None], batch.state)
        following = rollout.following.flatten()[kept]
        ended = rollout.done.flatten()[kept]
        assert bool((following[ended] == 0).all()) != truncates
        found.append(params[kept])
        rows_of_critic, _ = critic_rows(one, rollout, batch, returns)
        assert float(one.fit_critic(rows_of_critic, returns)) >= 0
    torch.testing.assert_close(found[0], found[1])


def test_the_value_after_a_truncation_is_that_of_the_critic_in_its_state():
    one = agent(lambda: Counting(True), num_envs=1, rows_per_update=8, normalize_observations=False)
    one.start()
    rollout = one.collect()
    cut = int(rollout.truncated[:, 0].nonzero()[0])
    obs = torch.full((1, 1), float(cut + 1))
    state = rollout.states[cut + 1, :, 5:]
    assert torch.equal(one.critic.step(obs, state)[0], rollout.following[cut])
    assert one.critic.values(Batch(obs, sequence_length=1)) != rollout.following[cut]


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ("CartPole-v1", {}),
        ("CartPole-v1", {"policy": "lstm", "sequence_length": 10, "critic_rows": 0.5}),
        ("Pendulum-v1", {"updates_per_rollout": 3, "encoder": (6,), "fvp_fraction": 0.5}),
        ("CartPole-v1", {"engine": "tensor", "preconditioner": "kfac"}),
        ("CartPole-v1", {"algorithm": "npg", "discount_weights": True, "normalize_rewards": True}),
    ],
)
def test_training_moves_policy_and_critic(env, settings):
    one = agent(env, **settings)
    before = flat_params(one.policy).clone(), flat_params(one.critic.net).clone()
    for _ in range(2):
        record = one.train_once()
    assert record["reason"] == "accepted"
    assert np.isfinite(record["critic_loss"])
    assert np.isfinite(record["explained_variance"])
    assert not torch.equal(flat_params(one.policy), before[0])
    assert not torch.equal(flat_params(one.critic.net), before[1])
    assert len(evaluate(one, 2).returns) == 2


@pytest.mark.parametrize("settings", [{}, {"policy": "lstm", "engine": "tensor"}])
def test_training_goes_on_from_a_checkpoint_bit_by_bit(tmp_path, settings):
    one = agent(**settings)
    one.train_once()
    one.save(tmp_path / "one")
    other = TRPO.load(tmp_path / "one")
    assert isinstance(other.policy, RecurrentPolicy)
    for _ in range(2):
        first, second = one.train_once(), other.train_once()
    assert first["kl"] == second["kl"]
    assert torch.equal(flat_params(one.policy), flat_params(other.policy))
    assert torch.equal(flat_params(one.critic.net), flat_params(other.critic.net))


def test_a_checkpoint_without_states_of_the_memory_is_refused(tmp_path):
    one = agent()
    state = one.state()
    del state["collector"]["memory"]
    with pytest.raises(ValueError, match="state: memory: expected one"):
        one.collector.load_state(state["collector"])


def test_predict_goes_on_from_the_state_it_gave():
    one = agent("CartPole-v1", "lstm", normalize_observations=True)
    one.train_once()
    rows = np.random.default_rng(0).normal(size=(6, 2, 4)).astype(np.float32)
    starts = np.array([True, False])
    actions, state = one.predict(rows[0])
    assert state.shape == (2, 10)
    other, again = one.predict(rows[1], state=state, episode_start=starts)
    _, after = one.predict(rows[1])
    assert np.allclose(again[0], after[0])
    assert not np.allclose(again[1], after[1])
    single, kept = one.predict(rows[1][1], state=state[1])
    assert np.allclose(kept, again[1], atol=1e-6)
    assert single == other[1]
    tensors, held = one.predict(torch.from_numpy(rows[0]), state=torch.zeros(2, 10))
    assert isinstance(tensors, torch.Tensor)
    assert isinstance(held, torch.Tensor)
    assert np.array_equal(tensors.numpy(), actions)
    for wrong in (np.zeros((3, 10)), "a"):
        with pytest.raises(ValueError, match="state: expected"):
            one.predict(rows[0], state=wrong)
    with pytest.raises(ValueError, match="state: expected finite numbers"):
        one.predict(rows[0], state=np.full((2, 10), np.nan))


def test_a_policy_without_a_memory_takes_no_state():
    one = TRPO("CartPole-v1", num_envs=2, rows_per_update=8)
    with pytest.raises(ValueError, match="state: expected None for a policy without a memory"):
        one.predict(np.zeros(4), state=np.zeros(3))


@pytest.mark.parametrize(("ending", "single"), [(".pt2", False), (".onnx", True)])
def test_an_exported_step_gives_the_action_and_the_next_state(tmp_path, ending, single):
    if ending == ".onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxscript")
    one = agent("Pendulum-v1", "gru" if single else "lstm")
    path = tmp_path / f"step{ending}"
    one.export(path, single=single)  # which compares its rows with predict
    if not single:  # any number of rows
        inputs = {"obs": torch.randn(2, 3), "state": torch.zeros(2, 10)}
        inputs["start"] = torch.tensor([True, False])
        with torch.no_grad():
            actions, after = FORMATS[ending][1](path.read_bytes())(inputs)
        wanted, kept = one.predict(inputs["obs"])
        torch.testing.assert_close(actions, wanted)
        torch.testing.assert_close(after, kept)


def test_a_policy_that_was_given_decides_the_settings_and_is_loaded_again(tmp_path):
    policy = RecurrentPolicy(4, Categorical(2), "lstm", 6, encoder=(3,), hidden=(4,))
    one = TRPO("CartPole-v1", policy=policy, num_envs=2, rows_per_update=20)
    config = one.config
    found = config.policy, config.cell_width, config.encoder, config.hidden
    assert found == ("lstm", 6, (3,), (4,))
    one.train_once()
    one.save(tmp_path / "one")
    other = TRPO.load(tmp_path / "one")
    assert torch.equal(flat_params(other.policy), flat_params(policy))


def test_a_critic_without_a_memory_may_stand_beside_the_policy():
    critic = torch.nn.Linear(4, 1)
    one = TRPO("CartPole-v1", policy="gru", critic=critic, num_envs=3, rows_per_update=60)
    before = critic.weight.clone()
    one.train_once()
    assert not torch.equal(critic.weight, before)


def test_a_critic_with_a_memory_fits_what_only_the_past_tells():
    torch.manual_seed(0)
    critic = RecurrentCritic(1, "gru", 8, minibatch=20, epochs=60, learning_rate=2e-2)
    obs = torch.randn(16 * 10, 1).sign()
    targets = torch.cat([torch.zeros(16, 1), obs.view(16, 10)[:, :-1]], 1).flatten()
    rows = Batch(obs, sequence_length=10)
    info = critic.fit(rows, targets)
    assert info.steps == 60 * 8
    assert float((critic.values(rows) - targets).square().mean()) < 0.05
    weights = torch.ones(160)
    weights[3] = 0.0
    targets[3] = torch.nan
    assert np.isfinite(float(critic.fit(rows, targets, weights)))
    with pytest.raises(ValueError, match="targets: expected finite values"):
        critic.fit(rows, targets)
    with pytest.raises(ValueError, match="obs: expected a trpo_fast"):
        critic.fit(obs, targets)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sampling": "vine"}, "sampling: expected 'path' for a policy with a memory"),
        ({"algorithm": "rat"}, "algorithm: expected another one for a policy with a memory"),
        ({"sequence_length": 7}, "sequence_length: expected a divisor of a rollout's 20 steps"),
        ({"critic": "gauss_newton"}, "critic: expected 'adam' for a critic with a memory"),
        ({"policy": "rnn"}, "policy: expected one of"),
    ],
)
def test_what_a_policy_with_a_memory_cannot_follow_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        agent(**settings)


def test_a_backend_that_cannot_serve_a_memory_is_refused_before_a_rollout():
    with pytest.raises(BackendUnavailable, match="expected an MLPPolicy, got RecurrentPolicy"):
        agent(backend="cpu")


class Sharper(RecurrentPolicy):
    """Overrides what updates follow."""

    def distribution_params(self, *inputs):
        return 2.0 * super().distribution_params(*inputs)


class Sharp(Sharper):
    """And what it acts by."""

    def step(self, *inputs):
        params, state = super().step(*inputs)
        return 2.0 * params, state


def test_a_policy_that_acts_by_another_distribution_is_refused():
    made = [kind(3, Gaussian(1), "gru", 4) for kind in (Sharper, Sharp)]
    settings = {"num_envs": 2, "rows_per_update": 40}
    with pytest.raises(ValueError, match="policy: expected one whose step gives what"):
        TRPO("Pendulum-v1", policy=made[0], **settings)
    one = TRPO("Pendulum-v1", policy=made[1], **settings)
    one.start()
    batch, _, _ = estimate(one, one.collect())
    shape = (-1, 20)
    params = made[1].distribution_params(
        batch.obs.unflatten(0, shape), batch.starts.view(shape), batch.state
    )
    found = one.head.log_prob(params, batch.actions)
    torch.testing.assert_close(found, batch.log_probs, rtol=1e-4, atol=1e-5)
    hooked = RecurrentPolicy(3, Gaussian(1), "gru", 4)
    hooked.cell.register_forward_hook(lambda cell, inputs, out: (2.0 * out[0], out[1]))
    with pytest.raises(ValueError, match="policy: expected one whose step gives what"):
        TRPO("Pendulum-v1", policy=hooked, **settings)


def test_a_width_of_the_cell_beside_a_policy_that_has_none_is_refused():
    module = torch.nn.Linear(4, 2)
    with pytest.raises(ValueError, match="cell_width: expected none beside a policy"):
        TRPO("CartPole-v1", policy=module, cell_width=3)


def test_products_of_a_rollout_are_those_of_the_dense_matrix():
    one = agent()
    one.start()
    batch, _, _ = estimate(one, one.collect())
    fisher = FisherOperator(
        one.policy,
        batch.obs,
        damping=0.1,
        sequence_length=batch.sequence_length,
        starts=batch.starts,
        state=batch.state,
    )
    v = torch.randn(fisher.shape[0])
    torch.testing.assert_close(
        (fisher @ v).double(), fisher.dense() @ v.double(), rtol=1e-4, atol=1e-5
    )
