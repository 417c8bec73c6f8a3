"""The public names as a type checker sees them in a user's script."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import trpo_fast

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import trpo_fast
from torch import Tensor, nn
from trpo_fast import *
from trpo_fast.envs.tensor import TensorEnv, TensorStep


class Homing(TensorEnv):
    state_size, max_episode_steps = 2, 50
    single_observation_space = gymnasium.spaces.Box(-10.0, 10.0, (2,))
    single_action_space = gymnasium.spaces.Box(-0.2, 0.2, (2,))

    def initial(self, count: int) -> Tensor:
        return self.uniform(count, -1.0, 1.0, 2)

    def dynamics(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, None]:
        moved = state + actions
        return moved, -moved.square().sum(-1), None

    def observe(self, state: Tensor) -> Tensor:
        return state


class Simulator(TensorEnvironment):
    num_envs, device = 4, torch.device("cpu")
    single_observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    single_action_space = gymnasium.spaces.Discrete(2)

    def reset(self, seed: int | None = None) -> Tensor:
        return torch.zeros(4, 2)

    def step(self, actions: Tensor) -> TensorStep:
        obs, no = torch.zeros(4, 2), torch.zeros(4, dtype=torch.bool)
        return TensorStep(obs, obs[:, 0], no, no, obs)


def solved(agent: TRPO, record: dict[str, Any]) -> bool:
    return not record["return"] > 475


def make(**options: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make("CartPole-v1", **options)


agent = TRPO("CartPole-v1", num_envs=4, hidden=(8,), max_kl=0.02, algorithm="npg")
logs: list[Any] = [ConsoleLogger(256, every=2), CsvLogger("."), JsonLogger(".")]
logs += [TensorBoardLogger(Path("."))]
logs += [WandbLogger("project", ".", mode="offline")]
evaluation = EvalCallback(64, directory=Path("."), env=make)
agent.learn(256, callbacks=[evaluation, *logs], checkpoint_path="a.safetensors", target_return=3.0)
agent.learn(256, callbacks=[solved, *logs])
agent.learn(256, callbacks=solved).save(Path("a.safetensors"))
try:
    again = TRPO.load("a.safetensors", make, device="cpu", env_options={"max_episode_steps": 5})
except (CheckpointError, EnvError, BackendUnavailable) as error:
    print(error)
found: Evaluation = evaluate(agent, episodes=3, deterministic=False, env="CartPole-v1")
agent.export("a.pt2", single=True)
others = [TRPO(Homing(8)), TRPO(Simulator()), TRPO(make), TRPO(config=Config(max_kl=0.1))]
TRPO(gymnasium.make_vec("CartPole-v1", num_envs=2))

policy = MLPPolicy(obs_dim=3, head=Gaussian(1), activation="silu")
heads: list[Head] = [Bernoulli(2), Categorical(3), MultiCategorical([2, 3]), SquashedGaussian(2)]
batch = Batch(torch.randn(8, 3), weights=torch.ones(8))
critic = Critic(3, method="gauss_newton")
reason: str = trpo_update(policy, batch, max_kl=0.02, kl_direction="reverse", chunk_rows=4).reason
npg_update(policy, batch, fisher="empirical", fvp_rows=4)
options: UpdateOptions = {"kl_reduction": "mean"}
kl_penalty_update(policy, batch, Penalty(rule="dual"), inner="adam", **options)
pg_update(nn.Linear(3, 1), batch, backend="reference", deterministic=False)
F = FisherOperator(policy, batch.obs, kl_reduction="mean")
register_head(torch.distributions.Gamma, params=("concentration", "rate"), samples=8)
register_head(
    torch.distributions.Poisson,
    params=lambda d: [d.rate],
    distribution=lambda rate: torch.distributions.Poisson(rate),
    kl=lambda old, new: (old.rate - new.rate).square(),
    metric=lambda d, tangent: [tangent / d.rate],
)
unregister_head(torch.distributions.Poisson)
optimizer = NaturalGradient(policy, max_kl=0.02, preconditioner="kfac")
optimizer.step(lambda pi: -pi.entropy().mean(), batch.obs)
optimizer.step(lambda: flat_params(policy).sum(), lambda: flat_params(policy).square().sum())
pair: Directions = optimizer.solve([lambda pi: pi.entropy().mean()] * 2, batch.obs)
moved: StepInfo = optimizer.search(pair.x[:, 0], [torch.sum], lambda new: new[0] < 0, batch.obs)
"""
SHOWN = {  # an expression of the script, and its type
    "agent.predict(np.zeros(4))": "numpy.ndarray[tuple[Any, ...], numpy.dtype[Any]]",
    "agent.predict(torch.zeros(4), deterministic=False)": "torch._tensor.Tensor",
    "agent.learn(3)": "trpo_fast.train.trainer.TRPO",
    "again": "trpo_fast.train.trainer.TRPO",
    "agent.policy": "torch.nn.modules.module.Module",
    "agent.critic": "trpo_fast.learner.critic.Critic",
    "agent.config.max_kl": "float",
    "found.mean": "float",
    "policy(batch.obs)": "torch.distributions.distribution.Distribution",
    "policy.spec": "trpo_fast.policy.spec.NetSpec",
    "critic(batch.obs)": "torch._tensor.Tensor",
    "critic.fit(batch.obs, torch.zeros(8)).loss": "torch._tensor.Tensor",
    "F @ torch.zeros(3)": "torch._tensor.Tensor",
    "F.solve(torch.zeros(3))": "trpo_fast.updates.solution.Solution",
    "F.dense()": "torch._tensor.Tensor",
    "F.shape": "tuple[int, int]",
    "flat_params(policy)": "torch._tensor.Tensor",
    "trpo_update(policy, batch)": "trpo_fast.updates.info.UpdateInfo",
    "trpo_update(policy, batch).kl": "float",
    "optimizer.step(lambda pi: pi.mean, batch.obs)": "trpo_fast.updates.step_info.StepInfo",
    "moved.kl": "float",
    "pair.products": "torch._tensor.Tensor",
    "backends()": "dict[str, str]",
}
MISTAKES = {
    'trpo_update(policy, batch, kl_direction="backward")': "\"Literal['forward', 'reverse']\"",
    'trpo_update(policy, batch, precision="fp8")': "'fp32', 'bf16x3', 'bf16x6', 'fp16x3', 'tf32'",
    "trpo_update(policy, batch, chunk_rows=1.5)": 'type "float"; expected "int | None"',
    "trpo_update(policy, batch, dampening=0.1)": 'Unexpected keyword argument "dampening"',
    'trpo_update(policy, batch, backend="gpu")': "'auto', 'cpu', 'cuda', 'reference', 'autograd'",
    "trpo_update(policy, batch.obs)": 'expected "Batch"',
    'MLPPolicy(3, Gaussian(1), activation="swish")': "'tanh', 'relu', 'elu', 'silu'",
    "MLPPolicy(3, torch.nn.Linear(3, 1))": 'expected "Head"',
    'TRPO("CartPole-v1", gama=0.99)': 'Unexpected keyword argument "gama"',
    'TRPO("CartPole-v1", algorithm="ppo")': "'trpo', 'npg', 'pg', 'kl-penalty', 'rat'",
    'TRPO("CartPole-v1", num_envs=2.5)': 'type "float"; expected "int"',
    'TRPO("MlpPolicy", "CartPole-v1")': 'expected "Never"',
    "TRPO(critic=3)": "expected Module | Literal['adam', ",
    "TRPO(3)": 'incompatible type "int"; expected "str | ',
    "agent.learn(total_timesteps=100)": 'expected "Never"',
    "agent.learn(100, callbacks=3)": 'Argument "callbacks"',
    'evaluate("CartPole-v1")': 'expected "Agent"',
    "evaluate(agent).median": 'has no attribute "median"',
    'Config(engine="threads")': "'sync', 'workers', 'async', 'envpool', 'tensor'",
    'Penalty(rule="linear")': "'fixed', 'adaptive', 'dual'",
    "ConsoleLogger()": "total_steps",
    'register_head(nn.Linear, params=("weight",))': '"register_head" cannot be "Linear"',
    'register_head(torch.distributions.Gamma, params=("rate",), kl="exact")': "'sampled'",
    "register_head(torch.distributions.Gamma)": 'Missing named argument "params"',
    'NaturalGradient(policy, preconditioner="kfak")': "'kfac'",
    "NaturalGradient(policy.parameters())": "expected Module",
    "optimizer.step(lambda: batch.obs.sum(), batch.obs)": "Callable[[Any], Tensor]",
    "optimizer.step(lambda pi: 3.0, batch.obs)": "Incompatible return value",
    "optimizer.solve(torch.sum, batch.obs)": "Sequence[",
    "F @ 3": "Unsupported operand types",
}


def mypy(script: Path, text: str) -> list[str]:
    """What ``mypy --strict`` says of a script, a line for each error and each reveal_type."""
    script.write_text(text)
    cache = ROOT / ".mypy_cache" / "strict"  # torch takes a minute to read
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-pretty"]
    command += ["--follow-imports=silent", f"--cache-dir={cache}", str(script)]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    said = [line for line in result.stdout.splitlines() if re.search(r": (error|note): ", line)]
    assert said, result.stdout + result.stderr
    return said


@pytest.mark.slow
def test_a_type_checker_knows_the_public_names(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    names = [f"trpo_fast.{name}" for name in trpo_fast.__all__]
    revealed = [f"reveal_type({shown})" for shown in [*SHOWN, *names]]
    start = SCRIPT.strip().splitlines()
    lines = [*start, *revealed, *MISTAKES]
    said = mypy(tmp_path / "script.py", "\n".join(lines) + "\n")
    at: dict[int, list[str]] = {}
    for line in said:
        at.setdefault(int(line.split(":")[1]), []).append(line)
    assert [line for number in at if number <= len(start) for line in at[number]] == []
    types = [at[len(start) + 1 + i][0].partition("Revealed type is ")[2] for i in range(len(SHOWN))]
    assert dict(zip(SHOWN, types, strict=True)) == {s: f'"{kind}"' for s, kind in SHOWN.items()}
    for i, name in enumerate(names, start=len(start) + len(SHOWN) + 1):
        kind = at[i][0].partition("Revealed type is ")[2].strip('"')
        assert kind and kind != "Any" and "-> Any" not in kind, f"{name}: {kind}"
    for i, (mistake, sentence) in enumerate(MISTAKES.items(), start=len(lines) - len(MISTAKES) + 1):
        errors = [line for line in at.get(i, []) if ": error: " in line]
        assert errors and sentence in " ".join(at[i]), f"{mistake}: {at.get(i)}"


def test_the_settings_of_a_type_checker_are_those_of_config() -> None:
    from trpo_fast.train.setting_types import Settings

    own = ("env", "policy", "critic")  # arguments of TRPO itself
    names = [f.name for f in dataclasses.fields(trpo_fast.Config) if f.name not in own]
    stated = typing.get_type_hints(trpo_fast.Config)
    assert typing.get_type_hints(Settings) == {name: stated[name] for name in names}
    assert list(Settings.__annotations__) == names


def test_a_star_import_brings_the_public_names_alone() -> None:
    found: dict[str, object] = {}
    exec("from trpo_fast import *", found)
    assert found.keys() - {"__builtins__"} == set(trpo_fast.__all__)
    typed = (Path(trpo_fast.__file__)).read_text().partition("if TYPE_CHECKING:")[2]
    later = set(re.findall(r"^    from \S+ import (.+)$", typed, re.MULTILINE))
    assert {name for line in later for name in line.split(", ")} == set(trpo_fast._LATER)
    assert set(trpo_fast._LATER) <= set(trpo_fast.__all__)
