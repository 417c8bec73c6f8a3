"""Evaluating while training: when, what is kept, what training notices of it, and after a kill."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

from small_runs import SMALL, parameters

from trpo_fast import TRPO, ConsoleLogger, EvalCallback, evaluate
from trpo_fast.train import checkpoint
from trpo_fast.train.eval_callback import BEST, EVALUATIONS, read_evaluations

OPTIONS: dict[str, Any] = {**SMALL, "seed": 1, "max_kl": 0.1}


def run(steps: int, callbacks: Any, agent: TRPO | None = None) -> TRPO:
    return (agent or TRPO("CartPole-v1", **OPTIONS)).learn(steps, callbacks=callbacks)


def test_it_plays_where_the_steps_pass_a_multiple_and_keeps_the_best(tmp_path: Path) -> None:
    evaluation, seen = EvalCallback(100, episodes=4, directory=tmp_path), []

    def look(agent: TRPO, record: dict[str, Any]) -> None:
        if not math.isnan(record["eval_return"]):
            seen.append((agent.steps, record["eval_return"], record["eval_best"]))
            assert evaluate(agent, 4).mean == record["eval_return"]

    run(640, [evaluation, look])
    steps, returns, best = zip(*seen, strict=True)
    assert steps == (128, 256, 320, 448, 512, 640)
    assert list(best) == [max(returns[: k + 1]) for k in range(6)] and len(set(returns)) > 1
    rows = read_evaluations(tmp_path / EVALUATIONS)
    assert [(row["steps"], row["return"]) for row in rows] == [(s, r) for s, r, _ in seen]
    kept = TRPO.load(tmp_path / BEST)
    assert kept.steps == steps[returns.index(max(returns))]
    assert evaluate(kept, 4).mean == evaluation.best == max(returns)


@pytest.mark.parametrize("engine", ["sync", "tensor"])
def test_training_does_not_notice(engine: Any) -> None:
    options = {**OPTIONS, "engine": engine}
    agents = [TRPO("CartPole-v1", **options) for _ in range(2)]
    run(256, EvalCallback(1, episodes=2), agents[0])
    run(256, (), agents[1])
    assert torch.equal(*map(parameters, agents))


def test_a_resumed_run_goes_on_from_what_is_there(tmp_path: Path) -> None:
    whole = EvalCallback(64, episodes=3, directory=tmp_path / "whole")
    run(320, whole)
    out = tmp_path / "run"
    agent = run(192, EvalCallback(64, episodes=3, directory=out))
    agent.save(tmp_path / "c")
    run(64, EvalCallback(64, episodes=3, directory=out), agent)  # and is killed before it is saved
    last = out / EVALUATIONS
    last.write_bytes(last.read_bytes()[:-3])
    run(128, EvalCallback(64, episodes=3, directory=out), TRPO.load(tmp_path / "c"))
    found, wanted = (read_evaluations(d / EVALUATIONS) for d in (out, tmp_path / "whole"))
    assert found == wanted and len(found) == 5
    one, two = (checkpoint.load(d / BEST)["counters"] for d in (out, tmp_path / "whole"))
    assert one == two and EvalCallback(64, directory=out).best == whole.best


def test_the_console_says_what_was_found() -> None:
    stream = io.StringIO()
    run(192, [EvalCallback(128, episodes=2), ConsoleLogger(192, stream=stream, bar=False)])
    lines = stream.getvalue().splitlines()
    said = [line for line in lines if line.startswith("evaluation")]
    assert len(said) == 1 and lines.index(said[0]) == 4
    assert said[0].startswith("evaluation: return ") and said[0].endswith("the best so far")


def test_other_arguments_are_refused() -> None:
    for name, value in (("every", 0), ("episodes", 0), ("seed", -1), ("deterministic", 1)):
        arguments: dict[str, Any] = {"every": 10, name: value}
        with pytest.raises(ValueError, match=f"^{name}: expected "):
            EvalCallback(**arguments)


def test_another_environment_may_be_played() -> None:
    import gymnasium

    def short() -> Any:
        return gymnasium.make("CartPole-v1", max_episode_steps=5)

    lengths: list[float] = []
    evaluation = EvalCallback(64, episodes=2, env=short)
    run(128, [evaluation, lambda _, record: lengths.append(record["eval_length"])])
    assert lengths == [5.0, 5.0]
