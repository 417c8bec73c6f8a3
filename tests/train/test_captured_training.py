"""Training whose updates, and whose critic's solves, are replays of what was recorded: run by the
stand-in for a CUDA graph, it is the training without.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("gymnasium")

from host_recorder import recording  # noqa: F401
from small_runs import parameters

from trpo_fast import captured_graphs
from trpo_fast.train.trainer import TRPO

WIDE: dict[str, Any] = {
    "engine": "tensor",
    "device": "cpu",
    "num_envs": 4,
    "rows_per_update": 64,
    "hidden": (140,),
    "critic_hidden": (140,),
    "critic": "gauss_newton",
    "critic_steps": 2,
    "critic_cg_iterations": 3,
    "cg_iterations": 3,
    "backtrack_steps": 4,
    "backend": "reference",
    "seed": 1,
}


@pytest.mark.parametrize(
    "options",
    [
        {"fvp_fraction": 0.5},
        {"updates_per_rollout": 2, "normalize_observations": True},
        {"algorithm": "kl-penalty", "preconditioner": "kfac"},
        {"critic": "adam", "critic_epochs": 3, "critic_minibatch": 24, "critic_steps": 3},
        {"critic": "adam", "critic_schedule": "linear", "critic_schedule_steps": 400},
        {"policy": "gru", "critic": "adam", "critic_minibatch": 32, "normalize_observations": True},
        {"algorithm": "kl-penalty", "penalty_rule": "dual", "penalty_rounds": 3},
    ],
)
def test_a_recorded_training_is_the_ordinary_one(recording, options: dict[str, Any]) -> None:  # noqa: F811
    ours, theirs = (TRPO("CartPole-v1", **(WIDE | options), capture=c) for c in (True, False))
    begun, kept = captured_graphs(), True
    for _ in range(4):
        record, wanted = ours.train_once(), theirs.train_once()
        assert record["reason"] == wanted["reason"]
        kept = kept and record["kl"] == pytest.approx(wanted["kl"], rel=1e-3, abs=1e-7)
        torch.testing.assert_close(parameters(ours), parameters(theirs), rtol=1e-3, atol=1e-4)
    after = captured_graphs()
    assert kept and after.replays >= begun.replays + 2 and after.evicted == begun.evicted
    assert after.graphs == 2 + options.get("updates_per_rollout", 1)
