"""Episodes of a policy that is not trained: their seeds, their noise, and videos of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

import gymnasium
from envs_for_tests import Counting
from limits import HANGS
from small_runs import SMALL

from trpo_fast import TRPO, evaluate
from trpo_fast.cli import commands
from trpo_fast.cli.main import main
from trpo_fast.train import checkpoint
from trpo_fast.train.evaluate import Evaluation, record_video


@pytest.mark.parametrize("engine", ["sync", "tensor"])
def test_seed_and_noise_decide_an_evaluation(engine: str) -> None:
    agent = TRPO("Pendulum-v1", engine=engine, **SMALL).learn(64)
    found = [
        evaluate(agent, 3, seed=seed, deterministic=quiet).returns
        for quiet in (True, False)
        for seed in (1, 2)
    ]
    assert len({tuple(returns) for returns in found}) == 4
    assert evaluate(agent, 3, seed=2).returns == found[1]


@pytest.mark.parametrize("engine", ["sync", "tensor"])
def test_actions_that_train_nothing_leave_training_as_it_was(engine: str) -> None:
    def train(between: Callable[[TRPO], object]) -> torch.Tensor:
        agent = TRPO("CartPole-v1", engine=engine, **SMALL).learn(64)
        between(agent)
        return agent.learn(64).critic.theta

    def sample(agent: TRPO) -> None:
        drawn = [agent.predict(np.zeros(4), deterministic=False) for _ in range(50)]
        assert len(set(map(int, drawn))) == 2

    wanted = train(lambda agent: None)
    for between in (sample, lambda agent: evaluate(agent, 2, deterministic=False)):
        assert torch.equal(wanted, train(between))


def test_an_evaluation_with_noise_repeats_itself() -> None:
    agent = TRPO("CartPole-v1", **SMALL)
    first = evaluate(agent, 5, deterministic=False, seed=3).returns
    agent.predict(np.zeros(4), deterministic=False)
    assert evaluate(agent, 5, deterministic=False, seed=3).returns == first


class Rendering(Counting):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode

    def render(self) -> np.ndarray:
        return np.full((8, 8, 3), 50 * self.count, np.uint8)


@pytest.mark.parametrize("source", [Rendering, lambda: Rendering("rgb_array")])
def test_a_video_of_an_environment_that_a_function_makes(source: Any, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    agent = TRPO(source, **SMALL)
    assert record_video(agent, str(tmp_path / "a.gif")) == 1.0 + 2.0 + 3.0 + 4.0
    with image.open(tmp_path / "a.gif") as video:
        assert video.n_frames == 5 and video.info["duration"] == 50


def test_what_does_not_render_says_so(tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image")
    venv = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    sentences = [
        (lambda: Rendering(), "render_mode=None, expected 'rgb_array'"),
        (venv, "it is a SyncVectorEnv, of which there is no single copy"),
    ]
    for source, why in sentences:
        with pytest.raises(ValueError, match=f"env: expected one that renders here, .*{why}"):
            record_video(TRPO(source, rows_per_update=64), str(tmp_path / "a.gif"))


def test_the_command_renders_mujoco(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    pytest.importorskip("PIL.Image")
    TRPO("InvertedPendulum-v5", **SMALL).save(tmp_path / commands.CHECKPOINT)
    words = ["eval", str(tmp_path), "--episodes", "1", "--render", str(tmp_path / "a.gif")]
    command = [sys.executable, "-m", "trpo_fast", *words]
    # How MuJoCo renders is settled when it is imported: in a process of its own.
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "MUJOCO_GL": "egl"},
        timeout=HANGS,
    )
    if "expected one that renders here" in done.stderr:
        pytest.skip(f"no rendering by EGL: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0 and "an episode of return" in done.stdout, done.stderr
    assert (tmp_path / "a.gif").read_bytes()[:4] == b"GIF8"


def test_the_device_given_is_where_a_run_is_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = TRPO("CartPole-v1", **SMALL)
    tree = agent.state()
    tree["config"]["device"] = "cuda:77"
    checkpoint.save(tmp_path / commands.CHECKPOINT, tree)
    for command in (["eval", "--episodes", "1"], ["resume", "--steps", "64"]):
        assert main([*command, str(tmp_path)]) == 1
        assert "device: expected one that works here" in capsys.readouterr().err
        assert main([*command, str(tmp_path), "--device", "cpu"]) == 0
        checkpoint.save(tmp_path / commands.CHECKPOINT, tree)


def test_the_commands_flags_reach_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TRPO("CartPole-v1", **SMALL).save(tmp_path / commands.CHECKPOINT)
    seen: list[Any] = []

    def note(agent: TRPO, episodes: int, **options: Any) -> Evaluation:
        seen.append({"episodes": episodes, **options})
        return Evaluation([1.0], [1])

    monkeypatch.setattr(commands, "evaluate_agent", note)
    assert main(["eval", str(tmp_path)]) == 0
    words = "--episodes 3 --seed 7 --stochastic".split()
    assert main(["eval", *words, str(tmp_path)]) == 0
    assert seen == [
        {"episodes": 10, "deterministic": True, "seed": 10_000},
        {"episodes": 3, "deterministic": False, "seed": 7},
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.mp4", r"ends in \.gif, \.png or \.webp, got a\.mp4"),
        ("a", "ends in"),
        ("no/a.gif", "no is none"),
    ],
)
def test_a_video_that_cannot_be_written_is_refused_before_anything_runs(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tyro")
    ran: list[str] = []
    monkeypatch.setattr(commands.TRPO, "load", lambda *_, **__: ran.append("load"))
    monkeypatch.chdir(tmp_path)
    words = ["run", "--render", name]
    with pytest.raises(ValueError, match=rf"^render: expected .*{message}"):
        commands.evaluate(words)
    with pytest.raises(ValueError, match=rf"^render: expected .*{message}"):
        record_video(TRPO("CartPole-v1", **SMALL), name)
    assert not ran and not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
def test_a_video_has_the_format_of_its_ending(ending: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    agent = TRPO(Rendering, **SMALL)
    record_video(agent, tmp_path / f"a.{ending}")
    with image.open(tmp_path / f"a.{ending}") as video:
        assert video.format == ending.upper() and video.n_frames == 5
