"""Training that takes a moment: settings of a small agent, what it learned, and runs of the command
line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from trpo_fast.cli.main import main
from trpo_fast.policy.flat import flat_params

SMALL: dict[str, Any] = {
    "num_envs": 2,
    "rows_per_update": 64,
    "hidden": (8,),
    "critic_hidden": (8,),
}
FLAGS = "--num-envs 2 --rows-per-update 64 --hidden 8 --critic-hidden 8 --seed 5".split()


def parameters(agent: Any) -> torch.Tensor:
    """A copy of everything that training moves."""
    return torch.cat([flat_params(agent.policy), agent.critic.theta]).clone()


def train(out: Path, steps: int, *flags: str) -> int:
    """The exit status of ``trpo-fast train CartPole-v1``."""
    return main(["train", "CartPole-v1", "--out", str(out), "--steps", str(steps), *FLAGS, *flags])


def refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], *, status: int = 1
) -> None:
    """The command fails with one line, which has the message in it."""
    assert main(words) == status
    error = capsys.readouterr().err
    assert error.startswith("trpo-fast: ") and message in error and error.count("\n") == 1
