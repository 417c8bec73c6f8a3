"""Episodes of a policy that is not trained: their seeds, their noise, and videos of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

from trpo_fast import TRPO, commands, evaluate
from trpo_fast.cli import main
from trpo_fast.evaluation import Evaluation

SMALL: dict[str, Any] = {
    "num_envs": 2,
    "rows_per_update": 64,
    "hidden": (8,),
    "critic_hidden": (8,),
}


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
