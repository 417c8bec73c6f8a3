"""Vine in discrete sets too large to try every action: what draws the actions, and that it does
not matter which.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")

import gymnasium
from vine_cases import SMALL, Walk, sampled

from trpo_fast.train.trainer import TRPO


class Wide(Walk):
    """Twelve actions, too many for an exact sum; the odd ones are forbidden after odd steps."""

    action_space = gymnasium.spaces.Discrete(12)


class WideMasked(Wide):
    def reset(self, **options: Any) -> Any:
        obs, _ = super().reset(**options)
        return obs, self._info()

    def step(self, action: Any) -> Any:
        assert self._info()["action_mask"][action]
        *came, _ = super().step(action)
        return *came, self._info()

    def _info(self) -> dict[str, Any]:
        return {"action_mask": np.arange(12) % 2 <= (self.count + 1) % 2}


class Several(Wide):
    action_space = gymnasium.spaces.MultiDiscrete([2, 6])

    def step(self, action: Any) -> Any:
        return super().step(action.sum())


class Switches(Wide):
    action_space = gymnasium.spaces.MultiBinary(4)

    def step(self, action: Any) -> Any:
        return super().step(action.sum())


@pytest.mark.parametrize(("env", "count"), [(Wide, 12), (Several, 12), (Switches, 16)])
def test_every_action_is_tried_alike(env: Any, count: int) -> None:
    settings = {"vine_branches": 40, "vine_length": 1, "normalize_observations": False}
    vine, _, _, batch, _ = sampled(env, vine_actions="uniform", **settings)
    with torch.no_grad():  # of a policy that would hardly try the others
        vine.agent.policy.net[-1].bias[0] = 8.0
    assert not vine.exact and batch.group_size == 40 and batch.weights is None
    torch.testing.assert_close(batch.log_probs, torch.full((800,), -float(np.log(count))))
    _, often = batch.actions.view(800, -1).unique(dim=0, return_counts=True)
    assert len(often) == count and float(often.max()) < 2.0 * 800 / count
    assert vine.agent.update(batch).accepted


def test_masked_actions_are_not_tried_by_the_uniform_choice() -> None:
    vine, _, _, batch, _ = sampled(WideMasked, vine_actions="uniform", vine_branches=6)
    allowed = batch.action_mask.sum(1)
    assert set(allowed.tolist()) == {6, 12}
    torch.testing.assert_close(batch.log_probs, -allowed.float().log())
    assert batch.action_mask.gather(1, batch.actions[:, None]).all()
    assert vine.agent.update(batch).accepted


@pytest.mark.parametrize("chosen", ["policy", "uniform"])
def test_self_normalised_groups_tend_to_the_exact_sum(chosen: str) -> None:
    """sum_k rho_k Q / sum_k rho_k is sum_a pi(a | s) Q(s, a) for many draws, whatever draws."""
    settings = {"vine_branches": 3000, "vine_length": 1, "vine_states": 4, "rows_per_update": 12}
    settings |= {"normalize_observations": False, "normalize_advantages": False}
    vine, _, _, batch, _ = sampled(Wide, vine_actions=chosen, **settings)
    policy, critic, gamma = vine.agent.policy, vine.agent.critic, vine.agent.config.gamma
    with torch.no_grad():
        policy.net[-1].bias.copy_(torch.linspace(-1.0, 1.0, 12))  # not the policy that drew
        probs = policy(batch.obs[::3000]).probs
        now = policy(batch.obs).log_prob(batch.actions)
        moved = batch.obs[::3000, None].repeat(1, 12, 1)
        moved[..., 0] += torch.arange(12) - 1.0
        moved[..., 1] += 1.0
        q = moved[..., 0] + gamma * critic.values(moved.view(-1, 2)).view(4, 12)
    ratio = (now - batch.log_probs).exp().view(4, 3000)
    advantages = batch.advantages.view(4, 3000)
    ours = (ratio * advantages).sum(1) / ratio.sum(1)
    first = q.gather(1, batch.actions.view(4, 3000)[:, :1])[:, 0]
    baseline = first - advantages[:, 0]
    torch.testing.assert_close(ours + baseline, (probs * q).sum(1), atol=0.3, rtol=0)


def test_a_uniform_choice_needs_a_discrete_set() -> None:
    sentence = "vine_actions: expected 'policy' for the head Gaussian, which is not discrete"
    with pytest.raises(ValueError, match=sentence):
        TRPO("Pendulum-v1", **SMALL, vine_actions="uniform")
    assert sampled("CartPole-v1", vine_actions="uniform")[0].exact
