"""The optional parts of the protocol: steps without final observations or with some, flags that are
numbers, rows that are no transitions, and a critic that sees more than the policy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

from gymnasium import spaces
from small_runs import parameters

from trpo_fast import TRPO, evaluate
from trpo_fast.envs.tensor import TensorStep
from trpo_fast.envs.tensor.protocol import is_tensor_env
from trpo_fast.train.targets import estimate

SETTINGS: dict[str, Any] = {"rows_per_update": 32, "hidden": (4,), "critic_hidden": (4,)}


class Count:
    """Copy i counts to i + 3, is truncated there (even copies) or terminated, and pays one a step.
    ``hidden`` is seen by the critic alone.
    """

    single_observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    single_action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, num_envs: int = 4) -> None:
        self.num_envs, self.device = num_envs, torch.device("cpu")
        self.count, self.copies = torch.zeros(num_envs), torch.arange(num_envs)
        self.hidden = torch.zeros(num_envs)

    def reset(self, seed: int | None = None) -> Tensor:
        self.count, self.hidden = torch.zeros(self.num_envs), torch.zeros(self.num_envs)
        return self.observe()

    def observe(self) -> Tensor:
        return torch.stack((self.copies.float(), self.count), 1)

    def step(self, actions: Tensor) -> Any:
        self.count = self.count + 1
        self.hidden = self.hidden + 0.5
        final, ended = self.observe(), self.count >= self.copies + 3
        self.count = self.count.masked_fill(ended, 0.0)
        cut = ended & (self.copies % 2 == 0)
        ones = torch.ones(self.num_envs)
        return TensorStep(self.observe(), ones, ended & ~cut, cut, final)

    def state(self) -> dict[str, Tensor]:
        return {"count": self.count.clone(), "hidden": self.hidden.clone()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.count, self.hidden = state["count"].clone(), state["hidden"].clone()


class Unseen(Count):
    """No final observations."""

    def step(self, actions: Tensor) -> Any:
        step = super().step(actions)
        return TensorStep(step.obs, step.rewards, step.terminated, step.truncated, None)


class Partly(Count):
    """Final observations of copy 0 alone, in the rows that ended; the rest of the tensor is NaN."""

    def step(self, actions: Tensor) -> Any:
        step = super().step(actions)
        rows = ((step.terminated | step.truncated) & (self.copies == 0)).float()
        nothing = torch.full_like(step.obs, torch.nan)
        final = torch.where(rows[:, None] > 0, step.final_obs, nothing)
        return TensorStep(step.obs, step.rewards, step.terminated, step.truncated, final, rows)


class Numbers(Count):
    """Flags as floats and integers."""

    def step(self, actions: Tensor) -> Any:
        step = super().step(actions)
        flags = step.terminated.float(), step.truncated.to(torch.int32)
        return TensorStep(step.obs, step.rewards, *flags, step.final_obs)


def rollout_of(env: Any, **settings: Any) -> tuple[TRPO, Any]:
    agent = TRPO(env, **SETTINGS, gamma=0.9, normalize_observations=False, **settings)
    agent.start()
    return agent, agent.collect()


def test_without_final_observations_a_truncation_is_worth_what_was_before_it() -> None:
    agent, rollout = rollout_of(Unseen())
    cut = rollout.truncated
    assert int(cut.sum()) == 3
    assert torch.equal(rollout.following[cut], rollout.values[cut])
    assert (rollout.following[rollout.terminated] == 0.0).all()
    _, returns, values = estimate(agent, rollout)
    # What others add to the reward, and a step that ends for good, is the same number.
    value = rollout.values[cut]
    delta = 1.0 + 0.9 * value - value
    gains = (returns - values).view_as(rollout.values)
    torch.testing.assert_close(gains[cut], delta)


def test_rows_without_a_final_observation_are_told_by_a_mask() -> None:
    agent, rollout = rollout_of(Partly())
    cut, copies = rollout.truncated, torch.arange(4).expand(8, 4)
    known = cut & (copies == 0)
    assert int(known.sum()) == 2 and int((cut & ~known).sum()) == 1
    reached = agent.critic.values(torch.tensor([[0.0, 3.0]]))
    torch.testing.assert_close(rollout.following[known], reached.expand(2))
    assert torch.equal(rollout.following[cut & ~known], rollout.values[cut & ~known])
    assert rollout.following.isfinite().all()
    _, whole = rollout_of(Count())
    assert torch.equal(whole.following[known], rollout.following[known])


def test_flags_may_be_numbers() -> None:
    agents = [TRPO(kind(), **SETTINGS, seed=2).learn(96) for kind in (Count, Numbers)]
    assert torch.equal(*map(parameters, agents))
    found = [evaluate(agent, 4).lengths for agent in agents]
    assert found[0] == found[1] == [3, 4, 5, 6]


class Late(Count):
    """Resets in the step after an end, which ignores the action and pays nonsense."""

    def __init__(self, num_envs: int = 4) -> None:
        super().__init__(num_envs)
        self.over = torch.zeros(num_envs, dtype=torch.bool)

    def reset(self, seed: int | None = None) -> Tensor:
        self.over = torch.zeros_like(self.over)
        return super().reset(seed)

    def step(self, actions: Tensor) -> Any:
        valid = ~self.over
        self.count = torch.where(valid, self.count + 1, 0.0)
        self.over = self.count >= self.copies + 3
        cut = self.over & (self.copies % 2 == 0)
        rewards = torch.where(valid, 1.0, 777.0)
        obs = self.observe()
        ended = self.over & ~cut
        return TensorStep(obs, rewards, ended | ~valid, cut, obs, valid=valid)


def test_rows_that_are_no_transitions_are_left_out() -> None:
    agent = TRPO(Late(), **SETTINGS)
    agent.start()
    rollout = agent.collect()
    episodes = [(n, float(n)) for n in rollout.lengths]
    assert set(rollout.lengths) <= {3, 4, 5, 6} and len(episodes) >= 5
    assert rollout.returns == [value for _, value in episodes]
    dropped = ~rollout.valid
    assert int(dropped.sum()) > 3 and rollout.rows == 32 - int(dropped.sum())
    assert (rollout.rewards[dropped] == 0).all() and not rollout.done[dropped].any()
    batch, returns, _ = estimate(agent, rollout)
    assert len(batch) == len(returns) == rollout.rows
    record = agent.train_once()
    assert record["rows"] == record["collected"] < 32
    assert evaluate(agent, 4, env=Late()).returns == [3.0, 4.0, 5.0, 6.0]


def test_a_memory_begins_anew_after_the_step_of_a_reset() -> None:
    agent = TRPO(Late(), policy="gru", cell_width=4, **SETTINGS)
    agent.start()
    for _ in range(2):
        rollout = agent.collect()
        first = rollout.raw_obs[..., 1] == 0.0
        assert int(first.sum()) > 3 and rollout.starts[first].all()
        steps = agent.policy.step
        _, fresh = steps(rollout.obs[first], agent.policy.initial_state(int(first.sum())))
        torch.testing.assert_close(rollout.states[1:][first][:, :4], fresh)


class Privileged(Count):
    """The reward follows what the critic alone sees."""

    single_critic_observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def critic_obs(self) -> Tensor:
        return torch.cat((self.observe(), self.hidden[:, None]), 1)

    def step(self, actions: Tensor) -> Any:
        before = self.hidden
        step = super().step(actions)
        seen = torch.cat((step.final_obs, self.hidden[:, None]), 1)
        flags = step.terminated, step.truncated
        return TensorStep(step.obs, before, *flags, step.final_obs, final_critic_obs=seen)


def test_a_critic_may_see_more_than_the_policy() -> None:
    agent, rollout = rollout_of(Privileged())
    assert agent.critic.net.spec.widths[0] == 3 and agent.policy.spec.widths[0] == 2
    rows = rollout.critic_rows(rollout.obs)
    assert rows.shape == (32, 3) and rows[::4, 2].tolist() == [0.5 * k for k in range(8)]
    torch.testing.assert_close(rollout.values.flatten(), agent.critic.values(rows))
    cut = rollout.truncated.nonzero()
    reached = [[float(c), float(c) + 3.0, 0.5 * (int(t) + 1)] for t, c in cut]
    values = agent.critic.values(torch.tensor(reached))
    torch.testing.assert_close(rollout.following[rollout.truncated], values)
    last = agent.critic.values(agent.envs.critic_obs())
    open_end = ~rollout.done[-1]
    torch.testing.assert_close(rollout.following[-1][open_end], last[open_end])


def test_it_trains_resumes_and_is_evaluated(tmp_path: Path) -> None:
    options = {**SETTINGS, "seed": 3, "normalize_observations": True}
    whole = TRPO(Privileged(), **options).learn(192)
    statistics = whole.collector.view.normaliser.statistics
    assert float(statistics.count) == 192 and statistics.mean[2] > 5.0
    TRPO(Privileged(), **options).learn(96).save(tmp_path / "c")
    resumed = TRPO.load(tmp_path / "c", Privileged()).learn(96)
    assert torch.equal(parameters(whole), parameters(resumed))
    assert evaluate(whole, 4).lengths == [3, 4, 5, 6]
    with pytest.raises(ValueError, match="its critic sees more than the policy"):
        TRPO(Privileged(), **SETTINGS, sampling="vine")


def test_without_its_final_observations_values_are_those_before() -> None:
    class Bare(Privileged):
        def step(self, actions: Tensor) -> Any:
            step = super().step(actions)
            flags = step.terminated, step.truncated
            return TensorStep(step.obs, step.rewards, *flags, step.final_obs)

    _, rollout = rollout_of(Bare())
    cut = rollout.truncated
    assert torch.equal(rollout.following[cut], rollout.values[cut]) and cut.any()


@pytest.mark.parametrize("kind", [Count, Unseen, Partly, Privileged, Late])
def test_a_device_that_is_not_waited_for_gives_the_same(kind: Any) -> None:
    """The path of a GPU, which values every row in place of selecting some, on the CPU."""
    followings = []
    for asynchronous in (False, True):
        agent = TRPO(kind(), **SETTINGS)
        agent.collector.asynchronous = asynchronous
        agent.start()
        rollout = agent.collect(wait=True)
        rollout.read_episodes()
        followings.append((rollout.following.clone(), rollout.lengths, rollout.returns))
    torch.testing.assert_close(followings[0][0], followings[1][0])
    assert followings[0][1:] == followings[1][1:]


def test_a_device_alone_makes_no_tensor_environment() -> None:
    class Place:
        device = torch.device("cpu")

    class Named(Count):
        def __init__(self) -> None:
            super().__init__()
            self.device = "cpu"  # type: ignore[assignment]

    assert not is_tensor_env(Place()) and not is_tensor_env(Named())
    assert is_tensor_env(Count()) and not is_tensor_env(Count)
    for env in (Place(), Named()):
        with pytest.raises(ValueError, match=r"^env: expected a gymnasium id, .* tensor environm"):
            TRPO(env, **SETTINGS)


def test_a_critic_that_sees_more_refuses_a_policy_with_a_memory() -> None:
    for critic in (None, torch.nn.Linear(3, 1)):
        with pytest.raises(ValueError, match="policy: expected one without a memory"):
            TRPO(Privileged(), policy="gru", critic=critic, num_envs=4)
