"""A run that is killed while it writes a checkpoint goes on from the whole one before, whatever net
it has.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

from limits import HANGS
from pixel_envs import Columns

from trpo_fast import TRPO

FORK = multiprocessing.get_context("fork")
SMALL: dict[str, Any] = {"num_envs": 2, "rows_per_update": 20, "hidden": (8,)}
SMALL |= {"critic_hidden": (8,), "critic_epochs": 2}
NET: dict[str, Any] = {"cnn_channels": (3,), "cnn_kernels": (3,), "cnn_strides": (2,)}
RUNS: dict[str, tuple[str | Callable[[], Any], dict[str, Any]]] = {
    "cnn": (Columns, {"policy": "cnn", **NET}),
    "gru": ("CartPole-v1", {"policy": "gru", "cell_width": 4, "encoder": (5,)}),
    "lstm": ("CartPole-v1", {"policy": "lstm", "cell_width": 4, "sequence_length": 5}),
}


def agent_of(kind: str) -> TRPO:
    env, settings = RUNS[kind]
    return TRPO(env, **SMALL, **settings, seed=3)


def train_until_the_kill(kind: str, path: Path, half: bool) -> None:
    """Die within the third write: half of the file is there, or all but its name."""
    torch.set_num_threads(1)
    writes, sync, replace = [0], os.fsync, os.replace

    def die(handle: int) -> None:
        os.ftruncate(handle, os.fstat(handle).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    def fsync(handle: int) -> None:
        writes[0] += os.fstat(handle).st_size > 4096  # a file's, not its directory's
        sync(handle)
        if writes[0] == 3 and half:
            die(handle)

    def named(source: Any, target: Any) -> None:
        if writes[0] == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.fsync, os.replace = fsync, named  # type: ignore[assignment]
    agent_of(kind).learn(200, checkpoint_path=path, checkpoint_every=1)


@pytest.mark.parametrize("half", [True, False], ids=["half written", "not renamed"])
@pytest.mark.parametrize("kind", RUNS)
def test_a_kill_within_a_write_leaves_the_checkpoint_before(
    kind: str, half: bool, tmp_path: Path
) -> None:
    path = tmp_path / "c"
    child = FORK.Process(target=train_until_the_kill, args=(kind, path, half), daemon=True)
    child.start()
    child.join(HANGS)
    assert child.exitcode == -signal.SIGKILL
    left = [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
    assert len(left) == 1 and path.exists()
    resumed = TRPO.load(path, env=RUNS[kind][0])
    assert resumed.updates == 1  # the first write was before the first update
    resumed.learn(20, checkpoint_path=path)
    whole = agent_of(kind).learn(40)
    for one, other in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(whole.critic.theta, resumed.critic.theta)
    assert os.listdir(tmp_path) == ["c"]
