"""The rate of the critic's Adam: where it goes over a run, that fits use it, and that a resumed run
has the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

from small_runs import SMALL, parameters

from trpo_fast import TRPO, Config
from trpo_fast.train.critic_schedule import critic_rate

FALLING: dict[str, Any] = {**SMALL, "seed": 3, "critic_schedule_steps": 256}
RATES = {
    "constant": [4e-3, 4e-3, 4e-3, 4e-3, 4e-3],
    "linear": [4e-3, 3e-3, 2e-3, 0.0, 0.0],
    "cosine": [4e-3, 4e-3 * (2 + 2**0.5) / 4, 2e-3, 0.0, 0.0],
}


@pytest.mark.parametrize("schedule", RATES)
def test_the_rate_by_its_formula(schedule: Any) -> None:
    config = Config(critic_schedule=schedule, critic_schedule_steps=1000)
    rates = [critic_rate(config, steps) for steps in (0, 250, 500, 1000, 7000)]
    assert rates == pytest.approx(RATES[schedule], abs=1e-18)


@pytest.mark.parametrize("schedule", RATES)
def test_fits_use_the_rate_that_the_log_says(schedule: Any) -> None:
    agent, rates, moves = TRPO("CartPole-v1", **FALLING, critic_schedule=schedule), [], []

    def look(agent: TRPO, record: dict[str, Any]) -> None:
        rates.append(record["critic_learning_rate"])
        moves.append(agent.critic.state_dict()["_extra_state"][0])

    agent.learn(5 * 64, callbacks=look)
    wanted = [critic_rate(agent.config, 64 * k) for k in range(5)]
    assert rates == wanted and moves[-1] == 50
    before = agent.critic.values(torch.ones(3, 4))
    agent.learn(64)
    same = torch.allclose(before, agent.critic.values(torch.ones(3, 4)), rtol=1e-4)
    assert same == (schedule != "constant")  # at zero only the scale of the targets moves


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_resumed_run_goes_on_bit_for_bit(schedule: Any, tmp_path: Path) -> None:
    options = {**FALLING, "critic_schedule": schedule}
    whole = TRPO("CartPole-v1", **options).learn(256)
    TRPO("CartPole-v1", **options).learn(128).save(tmp_path / "half")
    resumed = TRPO.load(tmp_path / "half").learn(128)
    assert torch.equal(parameters(whole), parameters(resumed))
    constant = TRPO("CartPole-v1", **FALLING).learn(256)
    assert not torch.equal(constant.critic.theta, whole.critic.theta)


def test_a_constant_rate_is_left_to_whoever_sets_it() -> None:
    agent = TRPO("CartPole-v1", **SMALL)
    agent.critic.learning_rate = 1e-5
    assert agent.train_once()["critic_learning_rate"] == 1e-5
