"""Updates of ``trpo_fast.integrations`` beside those of the libraries, in turns in one process.

python benchmarks/libraries.py rsl_rl      # beside PPO's update on the same storage
python benchmarks/libraries.py skrl        # beside skrl's TRPO
python benchmarks/libraries.py tianshou    # beside tianshou's TRPO and NPG

Each in the environment that ``make libraries`` has made: build/venvs/NAME/bin/python. The ratio is
that of the medians.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

# Name -> observations, actions, rows, layers.
SHAPES = {"small": (11, 3, 2048, [64, 64]), "wide": (48, 12, 24576, [256, 128])}
Run = tuple[Callable[[], None], Callable[[], object]]  # what prepares, what is timed


def in_turns(runs: dict[str, Run], repeats: int) -> dict[str, float]:
    """Medians of seconds, after one turn that does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, (prepare, run) in runs.items():
            prepare()
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(spent[1:]) for name, spent in times.items()}


def show(shape: str, runs: dict[str, Run], repeats: int) -> None:
    """A line a run: its time and that of the first run over it."""
    found = in_turns(runs, repeats)
    base = next(iter(found.values()))
    for name, spent in found.items():
        print(f"{shape}: {name}: {1e3 * spent:.1f} ms, {base / spent:.2f}x", flush=True)


def rsl_rl_runs(obs: int, actions: int, rows: int, layers: list[int]) -> dict[str, Run]:
    from rsl_rl.algorithms import PPO
    from rsl_rl.env import VecEnv
    from tensordict import TensorDict

    from trpo_fast.integrations.rsl_rl import TRPO

    envs, steps = rows // 32, 32

    class Spaces(VecEnv):
        num_envs, num_actions, device = envs, actions, "cpu"

        def get_observations(self) -> Any:
            raise NotImplementedError

        def step(self, actions: Any) -> Any:
            raise NotImplementedError

    def run(kind: Any, **options: Any) -> Run:
        torch.manual_seed(0)
        model = {"class_name": "MLPModel", "hidden_dims": layers, "obs_normalization": True}
        cfg = {
            "algorithm": {"class_name": kind, **options},
            "actor": {**model, "distribution_cfg": {"class_name": "GaussianDistribution"}},
            "critic": model,
            "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
            "num_steps_per_env": steps,
            "multi_gpu": None,
        }
        first = TensorDict({"policy": torch.randn(envs, obs)}, batch_size=[envs])
        made = kind.construct_algorithm(first, Spaces(), cfg, "cpu")

        def fill() -> None:
            with torch.inference_mode():
                for _ in range(steps):
                    seen = TensorDict({"policy": torch.randn(envs, obs)}, batch_size=[envs])
                    made.act(seen)
                    made.process_env_step(
                        seen, torch.randn(envs), torch.zeros(envs, dtype=torch.bool), {}
                    )
                made.compute_returns(seen)

        return fill, made.update

    return {
        "PPO": run(PPO),
        "TRPO, critic by Adam": run(TRPO),
        "TRPO, critic by Gauss-Newton": run(TRPO, critic_method="gauss_newton"),
        "TRPO by double backward, critic by Adam": run(TRPO, backend="autograd"),
    }


def skrl_runs(obs: int, actions: int, rows: int, layers: list[int]) -> dict[str, Run]:
    import gymnasium
    from skrl.agents.torch.trpo import TRPO as SkrlTRPO
    from skrl.agents.torch.trpo import TRPO_CFG
    from skrl.memories.torch import RandomMemory
    from skrl.utils.model_instantiators.torch import deterministic_model, gaussian_model

    from trpo_fast.integrations.skrl import TRPO

    envs, steps = rows // 32, 32
    spaces = {
        "observation_space": gymnasium.spaces.Box(-10.0, 10.0, (obs,)),
        "action_space": gymnasium.spaces.Box(-1.0, 1.0, (actions,)),
        "device": "cpu",
    }
    network = [{"name": "net", "input": "OBSERVATIONS", "layers": layers, "activations": "elu"}]
    policy = gaussian_model(**spaces, network=network, output="ACTIONS")
    value = deterministic_model(**spaces, network=network, output="ONE")
    policy.init_state_dict(role="policy")
    value.init_state_dict(role="value")

    def run(kind: Any, epochs: int) -> Run:
        models = {"policy": copy.deepcopy(policy), "value": copy.deepcopy(value)}
        memory = RandomMemory(memory_size=steps, num_envs=envs, device="cpu")
        cfg = TRPO_CFG(rollouts=steps, learning_epochs=epochs)
        agent = kind(models=models, memory=memory, cfg=cfg, **spaces)
        agent.init()
        agent.enable_training_mode(True)

        def fill() -> None:
            for i in range(steps):
                seen, following = torch.randn(envs, obs), torch.randn(envs, obs)
                with torch.no_grad():
                    taken, _ = agent.act(seen, None, timestep=i, timesteps=steps)
                agent.record_transition(
                    observations=seen,
                    states=None,
                    actions=taken,
                    rewards=torch.randn(envs, 1),
                    next_observations=following,
                    next_states=None,
                    terminated=torch.zeros(envs, 1, dtype=torch.bool),
                    truncated=torch.zeros(envs, 1, dtype=torch.bool),
                    infos={},
                    timestep=i,
                    timesteps=steps,
                )

        return fill, lambda: agent.update(timestep=0, timesteps=1)

    few = TRPO_CFG().learning_epochs
    return {
        "skrl": run(SkrlTRPO, few),
        "ours": run(TRPO, few),
    }


def tianshou_runs(obs: int, actions: int, rows: int, layers: list[int]) -> dict[str, Run]:
    import gymnasium
    from tianshou import algorithm as theirs
    from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Batch
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
    from torch.distributions import Independent, Normal

    from trpo_fast.integrations import tianshou as ours

    def net() -> Any:
        return Net(state_shape=(obs,), hidden_sizes=layers, activation=torch.nn.Tanh)

    def run(kind: Any) -> Run:
        torch.manual_seed(0)
        actor = ContinuousActorProbabilistic(
            preprocess_net=net(), action_shape=(actions,), unbounded=True
        )
        policy = ProbabilisticActorPolicy(
            actor=actor,
            dist_fn=lambda found: Independent(Normal(*found), 1),
            action_space=gymnasium.spaces.Box(-1.0, 1.0, (actions,)),
        )
        critic = ContinuousCritic(preprocess_net=net())
        made = kind(policy=policy, critic=critic, optim=AdamOptimizerFactory(lr=1e-3))
        given: dict[str, Any] = {}

        def fill() -> None:
            seen = torch.randn(rows, obs).numpy()
            with torch.no_grad():
                found = policy(Batch(obs=seen, info={}))
                logp_old = found.dist.log_prob(found.act)
            given["batch"] = Batch(
                obs=seen,
                act=found.act,
                adv=torch.randn(rows),
                returns=torch.randn(rows),
                logp_old=logp_old,
                info=Batch(),
            )

        return fill, lambda: made._update_with_batch(given["batch"], None, 1)

    return {
        "tianshou's TRPO": run(theirs.TRPO),
        "our TRPO": run(ours.TRPO),
        "tianshou's NPG": run(theirs.NPG),
        "our NPG": run(ours.NPG),
    }


RUNS = {"rsl_rl": rsl_rl_runs, "skrl": skrl_runs, "tianshou": tianshou_runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=RUNS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for name, (obs, actions, rows, layers) in SHAPES.items():
        words = f"{name} ({obs}-{'-'.join(map(str, layers))}-{actions}, {rows} rows)"
        show(words, RUNS[given.library](obs, actions, rows, layers), given.repeats)


if __name__ == "__main__":
    main()
