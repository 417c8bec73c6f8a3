"""The examples run: whole where that takes seconds, otherwise a few updates of what they make."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

from trpo_fast import TRPO, Directions

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
if not EXAMPLES.exists():
    pytest.skip("examples need a checkout", allow_module_level=True)


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_imports_and_has_a_main(path: Path) -> None:
    if path.stem.startswith("lqr"):
        pytest.importorskip("matplotlib")
    assert callable(example(path.stem).main)


def test_cartpole_trains_until_its_target(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = example("train_cartpole")
    monkeypatch.setattr(module, "SOLVED", 30.0)
    assert module.main() == 0
    assert "CartPole-v1 is solved: 30 reached" in capsys.readouterr().out


def test_hopper_goes_on_from_its_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mujoco")
    module, saved = example("train_hopper"), str(tmp_path / "c")
    for steps in (2048, 4096, 4096):
        module.main(saved, str(steps))
        assert TRPO.load(saved).steps == steps
    assert capsys.readouterr().out.count("over 10 episodes") == 3


def test_the_environment_of_ones_own_trains() -> None:
    env = example("train_tensor_env").Homing(64)
    assert TRPO(env, rows_per_update=640, gamma=0.9).learn(1280).steps == 1280


def regimes() -> dict[str, tuple[float, bool]]:
    """(what the cost is above its limit, whether a step can lower it to the limit)."""
    return {"far below": (-9.0, True), "below": (-0.001, True), "at": (0.0, True),
            "above": (0.01, True), "far above": (9.0, False)}  # fmt: skip


@pytest.mark.parametrize("name", regimes())
def test_the_step_of_cpo_is_the_best_within_both_limits(name: str) -> None:
    step_of = example("constrained").cpo_step
    excess, reachable = regimes()[name]
    torch.manual_seed(0)
    root = torch.randn(6, 6, dtype=torch.float64)
    H, max_kl = root @ root.T + torch.eye(6), 0.01
    g = torch.randn(6, 2, dtype=torch.float64)
    g[:, 1] -= 0.5 * g[:, 0]  # what lowers the loss raises the cost
    found = Directions(torch.zeros(2), g, torch.linalg.solve(H, g))
    x = step_of(found, excess, max_kl)
    assert (x @ H @ x).item() <= 2.0 * max_kl * (1.0 + 1e-9)
    sphere = torch.randn(20_000, 6, dtype=torch.float64)
    others = sphere / (sphere @ H * sphere).sum(-1, keepdim=True).sqrt() * (2.0 * max_kl) ** 0.5
    others = others * torch.rand(len(others), 1, dtype=torch.float64) ** (1 / 6)
    loss, cost = (x @ g).tolist()
    if reachable:
        allowed = others[excess + others @ g[:, 1] <= 0.0]
        assert excess + cost <= 1e-9 and len(allowed) > 10
        assert loss <= (allowed @ g[:, 0]).min().item()
    else:
        assert cost <= (others @ g[:, 1]).min().item()


def test_the_constrained_driver_is_fast_and_meets_its_cost_limit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    module, seen = example("constrained"), []
    for limit in (module.COST_LIMIT, float(module.STEPS)):
        torch.manual_seed(0)
        rollout = module.drive(module.train(16, 64, limit), 2048)
        seen.append([x.sum(0).mean().item() for x in (rollout.rewards, rollout.costs)])
    (distance, cost), (_, free_cost) = seen
    assert cost <= module.COST_LIMIT and distance > 20.0
    assert free_cost > 4.0 * module.COST_LIMIT
    assert capsys.readouterr().out.count("accepted") > 28


def test_the_game_of_pixels_is_an_environment_that_trains(tmp_path: Path) -> None:
    from gymnasium.utils.env_checker import check_env

    module = example("catch_pixels")
    check_env(module.Catch(), skip_render_check=True)
    agent = module.make()
    assert agent.config.policy == "cnn" and agent.policy.net.extractor.parts[0].image.planes[0] == 1
    curve = tmp_path / "curve.csv"
    assert len(module.main(1, str(curve), settings={"num_envs": 4, "rows_per_update": 64})) == 1
    assert curve.read_text().startswith("steps,return,caught")


def test_whoever_follows_the_ball_catches_it() -> None:
    env = example("catch_pixels").Catch()
    for seed in range(20):
        env.reset(seed=seed)
        over = False
        while not over:
            centre = env.paddle + 1
            move = 1 + (env.column > centre) - (env.column < centre)
            image, reward, over, _, _ = env.step(move)
        assert reward == 1.0 and image[0, -1, env.column] == 255
