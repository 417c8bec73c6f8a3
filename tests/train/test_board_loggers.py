"""TensorBoard and Weights & Biases: groups of names, steps, and a run that goes on."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("gymnasium")

from limits import HANGS
from small_runs import SMALL

from trpo_fast import TRPO, EvalCallback, TensorBoardLogger, WandbLogger
from trpo_fast.train.board_loggers import grouped
from trpo_fast.train.loggers import Loggers

# One of each kind; those of an update are all under train/.
NAMES = {
    "return": "rollout/return",
    "collected": "rollout/collected",
    "kl": "train/kl",
    "max_kl": "train/max_kl",
    "cg_iterations": "train/cg_iterations",
    "explained_variance": "critic/explained_variance",
    "critic_loss": "critic/loss",
    "critic_learning_rate": "critic/learning_rate",
    "critic_seconds": "time/critic_seconds",
    "steps_per_second": "time/steps_per_second",
    "update": "time/update",
    "eval_return": "eval/return",
}


def a_record(**changes: Any) -> dict[str, Any]:
    evaluation = EvalCallback(64, episodes=1)
    agent, found = TRPO("CartPole-v1", **SMALL), []
    agent.learn(64, callbacks=[evaluation, lambda _, record: found.append(record)])
    return {**found[0], **changes}


def test_every_number_of_a_record_stands_in_a_group() -> None:
    record = a_record()
    found = grouped(record)
    for name, key in NAMES.items():
        assert found[key] == record[name], name
    numbers = [v for v in record.values() if isinstance(v, int | float) and math.isfinite(v)]
    assert len(found) == len(numbers) - 1  # without the steps
    assert {key.partition("/")[0] for key in found} == {
        "rollout", "train", "critic", "time", "eval",
    }  # fmt: skip
    assert "train/kl" not in grouped({"kl": math.nan, "reason": "accepted"})


def test_tensorboard_events_hold_the_scalars(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    agent: Any = SimpleNamespace(steps=0)
    with Loggers(TensorBoardLogger(tmp_path)) as log:
        for update in (1, 2):
            agent.steps = 100 * update
            log(agent, {"return": 10.0 * update, "explained_variance": math.nan})
    events = EventAccumulator(str(tmp_path)).Reload()
    returns = [(event.step, event.value) for event in events.Scalars("rollout/return")]
    assert returns == [(100, 10.0), (200, 20.0)]
    assert events.Tags()["scalars"] == ["rollout/return"]


class Wandb:
    """What WandbLogger calls of the module."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.rows: list[dict[str, float]] = []
        self.metrics: list[tuple[Any, ...]] = []
        self.finished = 0

    def init(self, **options: Any) -> Wandb:
        self.started.append(options)
        return self

    def define_metric(self, *names: Any, **options: Any) -> None:
        self.metrics.append((*names, *options.values()))

    def log(self, row: dict[str, float]) -> None:
        self.rows.append(row)

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    module = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)  # type: ignore[arg-type]
    return module


def test_wandb_has_the_settings_the_numbers_and_one_run(wandb: Wandb, tmp_path: Path) -> None:
    agent = TRPO("CartPole-v1", **SMALL)
    for name in ("first", "resumed"):
        with Loggers(WandbLogger("walks", tmp_path, name=name, mode="offline")) as log:
            agent.learn(128, callbacks=log)
    first, second = wandb.started
    assert (first["project"], first["mode"], first["name"]) == ("walks", "offline", "first")
    assert first["config"]["max_kl"] == agent.config.max_kl and first["resume"] == "allow"
    assert first["id"] == second["id"] == (tmp_path / "wandb-id").read_text() != ""
    assert [row["steps"] for row in wandb.rows] == [64, 128, 192, 256]
    assert wandb.rows[0]["rollout/episodes"] > 0 and "train/kl" in wandb.rows[0]
    assert ("*", "steps") in wandb.metrics and wandb.finished == 2


def test_without_a_directory_every_run_is_new(wandb: Wandb) -> None:
    with Loggers(WandbLogger("walks")) as log:
        TRPO("CartPole-v1", **SMALL).learn(64, callbacks=log)
    with Loggers(WandbLogger("walks")):  # nothing was trained: no run
        pass
    assert len(wandb.started) == wandb.finished == 1 and "id" not in wandb.started[0]
    with pytest.raises(ValueError, match=r"^project: expected the name"):
        WandbLogger("")


def test_wandb_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # type: ignore[arg-type]
    with pytest.raises(ImportError, match=r'needs wandb: pip install "trpo-fast\[wandb\]"'):
        WandbLogger("walks")


OFFLINE = """
import types
from trpo_fast import WandbLogger
agent = types.SimpleNamespace(steps=64, config=types.SimpleNamespace(as_dict=dict))
log = WandbLogger("walks", ".", mode="offline")
log(agent, {"return": 2.5, "steps": 64})
print(log.run.summary["rollout/return"])
log.close()
"""


@pytest.mark.slow
def test_wandb_itself_takes_it_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    script = tmp_path / "script.py"
    script.write_text(OFFLINE)
    root = str(Path(__file__).resolve().parents[2])
    environment = {"PYTHONPATH": root, "WANDB_SILENT": "true", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert done.stdout.strip() == "2.5", done.stderr
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert folder.name.endswith((tmp_path / "wandb-id").read_text())
    assert list(folder.glob("*.wandb"))
