"""Vine: branches start from exactly the saved states, share their noise, and estimate Q without
bias.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")

import gymnasium
from envs_for_tests import Counting, Masked
from vine_cases import SMALL, Walk, sampled

from trpo_fast.envs import tensor as tensors
from trpo_fast.envs.gym.host import EnvError
from trpo_fast.policy.heads import Bernoulli, Categorical, Gaussian, MultiCategorical
from trpo_fast.train.trainer import TRPO


def test_an_exact_sum_has_every_action_with_the_policys_weight() -> None:
    vine, rollout, states, batch, _ = sampled(Walk, normalize_advantages=False)
    assert vine.exact and len(batch) == 20 * 3 and batch.group_size is None
    assert batch.actions.view(20, 3).eq(torch.arange(3)).all()
    torch.testing.assert_close(batch.weights.view(20, 3).sum(1), torch.ones(20))
    torch.testing.assert_close(batch.weights.log(), batch.log_probs)
    rows = rollout.obs[states.times, states.copies].repeat_interleave(3, 0)
    assert torch.equal(batch.obs, rows)


@pytest.mark.parametrize("env", [Walk, "Pendulum-v1"])
def test_branches_are_weighed_by_the_step_of_their_state(env: Any) -> None:
    """Walk observes the step; a pendulum's path begins at step 0 with the rollout."""
    settings = {"normalize_observations": False, "discount_weights": True, "gamma": 0.8}
    vine, rollout, states, batch, _ = sampled(env, **settings)
    steps = rollout.obs[states.times, states.copies, 1] if vine.exact else states.times
    discounts = 0.8 ** (steps - steps.min()).float()
    share = torch.ones(80) if not vine.exact else batch.log_probs.exp()
    wanted = discounts.repeat_interleave(vine.branches) * share
    torch.testing.assert_close(batch.weights, wanted)
    assert vine.agent.update(batch).accepted


def test_one_step_branches_are_the_rewards_of_the_saved_states() -> None:
    vine, rollout, states, _, steps = sampled(Walk, vine_length=1, normalize_observations=False)
    assert steps == 60
    agent = vine.agent
    params = agent.policy.distribution_params(rollout.obs[states.times, states.copies])
    branches = vine.branch(params, states)
    obs = rollout.obs[states.times, states.copies]
    moved = obs[:, None].repeat(1, 3, 1)
    moved[..., 0] += torch.arange(3) - 1.0
    moved[..., 1] += 1.0
    wanted = moved[..., 0] + agent.config.gamma * agent.critic.values(moved.view(-1, 2)).view(20, 3)
    torch.testing.assert_close(branches.values, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("engine", ["sync", "tensor"])
def test_nothing_is_worth_anything_after_a_termination(
    engine: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three states one goes on, one has fallen, and one has fallen as its time was up."""
    settings = {"engine": engine, "vine_length": length, "normalize_observations": False}
    agent = TRPO("CartPole-v1", **SMALL | settings | {"gamma": 0.5})
    agent.start()
    monkeypatch.setattr(agent.critic, "values", lambda rows: torch.full((len(rows),), 1024.0))
    angles, elapsed = (0.0, 0.3, 0.3), (0, 0, 499)
    states = [[0.0, 0.0, angle, 0.0] for angle in angles]
    saved: Any = [(torch.tensor(states), torch.tensor(elapsed))]
    if engine == "sync":
        saved = agent.envs.state()
        for one, state, steps in zip(saved, states, elapsed, strict=True):
            one["core"]["state"] = np.array(state)
            one["wrappers"][0]["_elapsed_steps"] = steps
    actions, live = torch.tensor([[0, 1]] * 3), torch.ones(3, 2, dtype=torch.bool)
    assert agent.vine is not None
    values, steps = agent.vine.runner.follow(saved, actions, torch.rand(length - 1, 3, 2), live)
    goes_on = sum(0.5**l for l in range(length)) + 0.5**length * 1024.0
    assert values.tolist() == [[goes_on] * 2, [1.0] * 2, [1.0] * 2]
    assert steps == 2 * length + 4


def test_branches_share_their_noise_so_differences_are_the_actions() -> None:
    """Nothing after the first action depends on it but the position: Q(2) - Q(1) = sum gamma^l."""
    vine, rollout, states, _, _ = sampled(Walk, gamma=0.9, normalize_observations=False)
    with torch.no_grad():  # a policy that ignores the position, and a critic that is zero
        vine.agent.policy.net[0].weight.zero_()
        vine.agent.critic.theta.zero_()
    params = vine.agent.policy.distribution_params(rollout.obs[states.times, states.copies])
    values = vine.branch(params, states).values
    # An episode cut at 50 steps ends a branch early.
    left = torch.minimum(50 - rollout.obs[states.times, states.copies, 1], torch.tensor(9.0))
    wanted = (1.0 - 0.9**left) / (1.0 - 0.9)
    torch.testing.assert_close(values[:, 2] - values[:, 1], wanted, atol=1e-4, rtol=1e-4)


def test_masked_actions_are_not_simulated() -> None:
    class Saving(Masked):
        save_state = Walk.__dict__["save_state"]
        load_state = Walk.__dict__["load_state"]
        position = 0.0

    vine, _, _, batch, steps = sampled(Saving)
    assert (batch.weights.view(20, 3) > 0).sum(1).eq(1).all()
    assert steps <= 20 * 4 and vine.agent.update(batch).reason in ("zero_gradient", "accepted")


@pytest.mark.parametrize("engine", ["sync", "tensor"])
def test_continuous_actions_form_self_normalised_groups(engine: str) -> None:
    vine, _, _, batch, steps = sampled("Pendulum-v1", engine=engine, vine_branches=4)
    assert not vine.exact and batch.group_size == 4 and batch.weights is None
    assert len(batch) == 80 and steps == 80 * 9
    assert vine.agent.update(batch).accepted


def test_host_and_tensor_branches_agree_on_pendulum() -> None:
    """The same states, actions and noise give the same Q from gymnasium and from tensors."""
    host = sampled("Pendulum-v1", normalize_observations=False, vine_states=6)
    tensor = sampled("Pendulum-v1", engine="tensor", normalize_observations=False, vine_states=6)
    ours, theirs = host[0], tensor[0]
    theirs.agent.policy.load_state_dict(ours.agent.policy.state_dict())
    theirs.agent.critic.load_state_dict(ours.agent.critic.state_dict())
    physics = [torch.as_tensor(s["core"]["state"], dtype=torch.float32) for s in host[2].states]
    elapsed = torch.tensor([s["wrappers"][0]["_elapsed_steps"] for s in host[2].states])
    saved = [(torch.stack(physics), elapsed)]
    actions, noise, live = torch.randn(6, 4, 1), torch.randn(8, 6, 1), torch.ones(6, 4).bool()
    first, _ = ours.runner.follow(host[2].states, actions, noise, live)
    second, _ = theirs.runner.follow(saved, actions, noise, live)
    torch.testing.assert_close(first, second, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ("CartPole-v1", {}),
        ("CartPole-v1", {"engine": "tensor"}),
        ("Hopper-v5", {"engine": "async"}),
        ("CartPole-v1", {"engine": "workers", "workers": 2}),
    ],
    ids=str,
)
def test_training_with_vine_counts_every_simulator_step(env: str, settings: dict[str, Any]) -> None:
    if env.endswith("-v5"):
        pytest.importorskip("mujoco")
    agent = TRPO(env, **SMALL, **settings)
    record = agent.train_once()
    branches = 2 if env.startswith("CartPole") else 4
    assert 60 < record["steps"] <= 60 + 20 * branches * 9 and record["rows"] == 20 * branches
    agent.close()


def test_branches_from_workers_are_those_of_one_process() -> None:
    batches = []
    for engine in ("sync", "workers"):
        vine, _, _, batch, steps = sampled("Pendulum-v1", engine=engine, workers=2)
        batches.append((batch.obs, batch.actions, batch.advantages, torch.tensor(steps)))
        vine.agent.close()
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


@pytest.mark.parametrize("engine", ["sync", "tensor"])
def test_the_simulator_of_the_branches_is_not_the_learners_time(engine: str) -> None:
    agent = TRPO("Pendulum-v1", **SMALL, engine=engine)
    record = agent.train_once()
    assert agent.vine is not None and agent.vine.env_seconds > 0.0
    assert record["env_seconds"] == agent.collector.env_seconds + agent.vine.env_seconds
    share = 1.0 - record["env_seconds"] / record["seconds"]
    assert record["learner_share"] == pytest.approx(share) and record["act_seconds"] > 0.0


@pytest.mark.parametrize(
    "head", [Gaussian(2), Categorical(3), MultiCategorical([2, 3]), Bernoulli(2)]
)
def test_chosen_actions_have_the_distribution_of_the_head(head: Any) -> None:
    torch.manual_seed(0)
    params = torch.randn(head.parameters_per_row).expand(20_000, -1)
    gaussian = head.kind == "gaussian"
    width = head.action_dim if gaussian else head.outputs
    noise = torch.randn(20_000, width) if gaussian else torch.rand(20_000, width)
    ours, theirs = head.choose(params, noise), head.sample(params)
    torch.testing.assert_close(ours.float().mean(0), theirs.float().mean(0), atol=0.05, rtol=0)
    assert torch.equal(ours, head.choose(params, noise))


class BadBranches(Walk):
    """Misbehaves in branches only."""

    how, branched = "", False

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.branched = True

    def step(self, action: Any) -> Any:
        obs, reward, *rest = super().step(action)
        if self.branched and self.how == "raises":
            raise ZeroDivisionError("the simulator is broken")
        obs = {"obs": obs * np.nan, "shape": obs[:1]}.get(self.how if self.branched else "", obs)
        return obs, np.inf if self.branched and self.how == "reward" else reward, *rest


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", "failed in the step of a branch: ZeroDivisionError: the simulator is broken"),
        ("shape", r"failed in step: expected observations of shape \[2\], got \[1\] from a branch"),
        ("obs", "returned nan as component 0 of the observation of a branch, 1 steps after the"),
        ("reward", "returned reward inf from a branch, 1 steps after the state that it began in"),
    ],
)
def test_a_branch_that_goes_wrong_is_named(how: str, message: str) -> None:
    with pytest.raises(EnvError, match=f"environment Bad {message}"):
        sampled(type("Bad", (BadBranches,), {"how": how}))


class Keeper(gymnasium.Wrapper):
    """Keeps, from the first reset on, what cannot be saved."""

    def reset(self, **options: Any) -> Any:
        self.thing = object()
        return self.env.reset(**options)


class Foreign:
    """A user's tensor environment, with states in a form of its own."""

    num_envs, device = 2, torch.device("cpu")

    def __init__(self) -> None:
        self.env = tensors.make("Pendulum-v1", 2)
        self.single_observation_space = self.env.single_observation_space
        self.single_action_space = self.env.single_action_space
        self.reset, self.step = self.env.reset, self.env.step
        self.state, self.load_state = self.env.state, self.env.load_state


def test_environments_without_states_are_refused() -> None:
    with pytest.raises(
        ValueError, match="sampling: expected 'path', because Counting has no state"
    ):
        TRPO(Counting, **SMALL)
    with pytest.raises(ValueError, match="because the wrapper Keeper keeps thing, which cannot"):
        TRPO(lambda: Keeper(gymnasium.make("CartPole-v1")), **SMALL)
    with pytest.raises(ValueError, match="because Foreign is no TensorEnv, whose physics"):
        TRPO(Foreign(), **SMALL | {"num_envs": 2})
    with pytest.raises(ValueError, match="normalize_rewards: expected false"):
        TRPO("CartPole-v1", **SMALL, normalize_rewards=True)
