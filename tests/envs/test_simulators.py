"""Adapters of Isaac Lab, mjlab and ManiSkill on stand-ins with their interfaces: what is trained on
is what happened, and an environment that is given without its adapter is told which.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

import gymnasium
from simulator_stand_ins import ManagerBasedRLEnv, ManagerBasedRlEnv, ManiSkillVectorEnv

from trpo_fast import TRPO, evaluate
from trpo_fast.envs.simulators import IsaacLab, ManiSkill, Mjlab
from trpo_fast.envs.tensor.protocol import is_tensor_env

SETTINGS: dict[str, Any] = {"rows_per_update": 32, "hidden": (4,), "critic_hidden": (4,)}


def final_isaac() -> IsaacLab:
    return IsaacLab(ManagerBasedRLEnv(compute_final_obs=True))


MAKERS: dict[str, Any] = {
    "isaaclab": lambda: IsaacLab(ManagerBasedRLEnv()),
    "isaaclab wrapped": lambda: IsaacLab(gymnasium.Wrapper(ManagerBasedRLEnv())),
    "isaaclab with final observations": final_isaac,
    "isaaclab without the critic's": lambda: IsaacLab(ManagerBasedRLEnv(), critic=""),
    "mjlab": lambda: Mjlab(ManagerBasedRlEnv()),
    "maniskill": lambda: ManiSkill(ManiSkillVectorEnv()),
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_row_is_what_happened(name: str) -> None:
    agent = TRPO(MAKERS[name](), **SETTINGS, normalize_observations=False)
    agent.start()
    rollout = agent.collect()
    copies = torch.arange(4)
    count = torch.zeros(4)
    for t in range(8):
        wanted = torch.stack((copies.float(), count), 1)
        assert torch.equal(rollout.obs[t], wanted)
        if rollout.view is not None:
            assert torch.equal(rollout.view.obs[t], torch.cat((wanted, 2 * count[:, None]), 1))
        count = count + 1
        ended = count >= copies + 3
        assert torch.equal(rollout.truncated[t], ended & (copies % 2 == 0))
        assert torch.equal(rollout.terminated[t], ended & (copies % 2 == 1))
        count[ended] = 0
    assert (rollout.rewards == 1.0).all() and set(rollout.lengths) == {3, 4, 5, 6}


@pytest.mark.parametrize("name", MAKERS)
def test_what_follows_a_time_out(name: str) -> None:
    agent = TRPO(MAKERS[name](), **SETTINGS, normalize_observations=False)
    agent.start()
    rollout = agent.collect()
    cut = rollout.truncated
    lengths = torch.arange(4).expand(8, 4)[cut].float()
    ends = torch.stack((lengths, lengths + 3), 1)
    if rollout.view is not None:
        ends = torch.cat((ends, 2 * (lengths[:, None] + 3)), 1)
    reached = agent.critic.values(ends)
    has = name in ("isaaclab with final observations", "maniskill")
    wanted = reached if has else rollout.values[cut]
    torch.testing.assert_close(rollout.following[cut], wanted)
    assert len(lengths) == 3 and not torch.allclose(reached, rollout.values[cut])


@pytest.mark.parametrize("name", MAKERS)
def test_it_trains_and_is_evaluated(name: str) -> None:
    agent = TRPO(MAKERS[name](), **SETTINGS).learn(96)
    width = agent.critic.net.spec.widths[0]
    assert width == (2 if name in ("maniskill", "isaaclab without the critic's") else 3)
    with pytest.warns(UserWarning, match="episodes under way start anew"):
        assert evaluate(agent, 4).returns == [3.0, 4.0, 5.0, 6.0]
    assert evaluate(agent, 4, env=MAKERS[name]()).lengths == [3, 4, 5, 6]


def test_seeds_and_groups_are_passed_on() -> None:
    core = ManagerBasedRLEnv()
    TRPO(IsaacLab(core, policy="critic", critic="policy"), **SETTINGS, seed=3).start()
    assert core.seeds[0] is None and core.seeds[-1] not in (None, 0)
    agent = TRPO(IsaacLab(core, policy="critic", critic="policy"), **SETTINGS)
    assert (agent.policy.spec.widths[0], agent.critic.net.spec.widths[0]) == (3, 2)


GIVEN: dict[str, Any] = {
    "IsaacLab(env)": ManagerBasedRLEnv,
    "IsaacLab(env) ": lambda: gymnasium.Wrapper(ManagerBasedRLEnv()),
    "Mjlab(env)": ManagerBasedRlEnv,
    "ManiSkill(env)": ManiSkillVectorEnv,
}


@pytest.mark.parametrize("adapter", GIVEN)
def test_without_its_adapter_it_is_told_which(adapter: str) -> None:
    with pytest.raises(ValueError) as caught:
        TRPO(GIVEN[adapter](), **SETTINGS)
    name = f"trpo_fast.envs.simulators.{adapter.strip()}"
    assert str(caught.value).startswith(f"env: expected {name}, got ")
    for make in MAKERS.values():
        assert is_tensor_env(make())


def test_what_does_not_fit_is_said_when_it_is_made() -> None:
    with pytest.raises(ValueError, match=r"^policy: expected a group .*\['policy', 'critic'\], g"):
        IsaacLab(ManagerBasedRLEnv(), policy="actor")
    with pytest.raises(ValueError, match=r"^env: expected one that resets copies by itself"):
        Mjlab(ManagerBasedRlEnv(auto_reset=False))
    with pytest.raises(ValueError, match=r"^env: expected a ManiSkillVectorEnv with auto_reset=T"):
        ManiSkill(ManiSkillVectorEnv(auto_reset=False))
    with pytest.raises(ValueError, match=r"^env: expected observations in one tensor, got dict"):
        TRPO(ManiSkill(ManiSkillVectorEnv(state=False)), **SETTINGS)
