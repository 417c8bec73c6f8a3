"""A checkpoint that version 0.1.0 wrote loads, and training goes on."""

from __future__ import annotations

from pathlib import Path

from trpo_fast import TRPO, Categorical

SAVED = Path(__file__).with_name("agent_of_0_1_0.safetensors")


def test_a_saved_agent_goes_on() -> None:
    agent = TRPO.load(SAVED)
    assert (agent.steps, agent.updates, agent.episodes) == (128, 2, 4)
    assert type(agent.policy.head) is Categorical and agent.policy.spec.widths == (4, 4, 2)
    agent.learn(64)
    assert (agent.steps, agent.updates) == (192, 3)
