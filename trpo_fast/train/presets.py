"""Settings that suit a family of environments, where the defaults do not."""

from __future__ import annotations

import re
from typing import Any

from ..policy.cnn import HIDDEN

# Frequent, somewhat larger updates; minibatches of a quarter keep 40 critic steps an update.
MUJOCO: dict[str, Any] = {
    "rows_per_update": 1024,
    "initial_log_std": -0.5,
    "max_kl": 0.02,
    "critic_minibatch": 256,
    "critic_learning_rate": 2e-3,
}

# For gaits that end with a fall: large steps on many rows, ever smaller, and a critic fitted to its
# end (rl-zoo's rows, KL and critic). Gamma decides how fast a gait runs: at 0.99 a fall costs what
# the next hundred steps pay, and policies that went on learning ran faster and fell more.
GAITS: dict[str, Any] = {
    "rows_per_update": 2048,
    "gamma": 0.995,
    "max_kl": 0.01,
    "max_kl_final": 0.001,
    "kl_reduction": "mean",
    "cg_iterations": 25,
    "critic_minibatch": 128,
    "critic_epochs": 20,
    "critic_learning_rate": 1e-3,
}

# First match wins, of the whole of an environment's name: without a version, and without "Env".
PRESETS: list[tuple[str, dict[str, Any]]] = [
    (
        r"CartPole|Acrobot|MountainCar",
        {
            "normalize_observations": False,
            "rows_per_update": 1024,
            "gamma": 0.99,
            "max_kl": 0.02,
        },
    ),
    (
        r"Pendulum",
        {"rows_per_update": 4096, "num_envs": 16, "gamma": 0.9, "max_kl": 0.02},
    ),
    (
        r"MountainCarContinuous",
        {"rows_per_update": 8192, "gamma": 0.999, "initial_log_std": 0.5, "max_kl": 0.02},
    ),
    (r"LQR", {"gamma": 0.9, "normalize_observations": False, "rows_per_update": 4096}),
    (r"LunarLander(Continuous)?", {"gamma": 0.999, "gae_lambda": 0.98, "rows_per_update": 4096}),
    # A stroke pays off over hundreds of steps. Raw observations: a new policy, whose biases are
    # zero, is symmetric in them, and so is the fastest gait; after normalisation by the first
    # strokes' mean it often ended in one of two slower gaits that bounce off a joint's limits.
    (
        r"Swimmer",
        {
            "gamma": 0.999,
            "gae_lambda": 0.99,
            "normalize_observations": False,
            "rows_per_update": 2048,
            "max_kl": 0.01,
            "critic_hidden": (128, 128),
            "critic_minibatch": 128,
            "critic_epochs": 20,
            "critic_learning_rate": 1e-3,
        },
    ),
    # Many joints: less noise on each, and the step that 0.01 on the average of them allows. Many
    # observations: more rows and a slower critic, or it fits those of one update only.
    (
        r"Ant|Humanoid|HumanoidStandup",
        MUJOCO
        | {
            "rows_per_update": 2048,
            "initial_log_std": -1.0,
            "max_kl": 0.01,
            "max_kl_final": 0.005,
            "kl_reduction": "mean",
            "critic_learning_rate": 1e-3,
        },
    ),
    # Solved within 50k steps. From then on the advantages are mostly the critic's noise, and whole
    # steps along it lose the balance again: steps in proportion to the signal, and ever smaller.
    (
        r"Inverted(Double)?Pendulum",
        MUJOCO | {"scale_kl": True, "max_kl": 0.01, "max_kl_final": 0.001, "max_kl_steps": 500_000},
    ),
    (r"Hopper", GAITS),
    # At 0.995 it walks slowly for most of a million steps.
    (r"Walker2d", GAITS | {"gamma": 0.99, "max_kl_final": 0.002}),
    (r"HalfCheetah|Reacher|Pusher", MUJOCO),
]

# Thousands of copies on a device: short rollouts, smaller nets, and curvature and critic from a
# part of so many rows; with them learning costs as little as such environments do.
TENSOR: dict[str, Any] = {
    "num_envs": 4096,
    "rows_per_update": 131072,
    "hidden": (32, 32),
    "critic_hidden": (32, 32),
    "fvp_fraction": 0.0625,
    "critic_rows": 0.25,
    "critic_epochs": 1,
    "critic_minibatch": 2048,
}


# What follows the convolutions of images, where nothing else was chosen.
IMAGES: dict[str, Any] = {"hidden": HIDDEN, "critic_hidden": HIDDEN, "activation": "relu"}


def preset_for(env: str, engine: str = "sync") -> dict[str, Any]:
    """The preset of an environment, and of the tensor engine on top of it."""
    name = re.sub(r"-v\d+$", "", re.split("[/:]", env)[-1]).removesuffix("Env")
    found = next((dict(values) for pattern, values in PRESETS if re.fullmatch(pattern, name)), {})
    return found | TENSOR if engine == "tensor" else found


def in_flags(env: str, engine: str) -> str:
    """The preset as the flags that would set it, for the help of ``trpo-fast train``."""
    words = []
    for name, value in preset_for(env, engine).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            items = value if isinstance(value, tuple) else (value,)
            words.append(" ".join([f"--{flag}", *map(str, items)]))
    return " ".join(words) or "nothing, it has none"


def describe(config: dict[str, Any]) -> str:
    """One line: the preset's settings that apply in a config, and those that others replaced."""
    preset = preset_for(config["env"], config["engine"])
    if not preset:
        return f"no preset for {config['env']}"
    kept = [f"{name}={value}" for name, value in preset.items() if config[name] == value]
    replaced = [name for name, value in preset.items() if config[name] != value]
    text = f"preset of {config['env']}: {', '.join(kept) or 'nothing'}"
    return f"{text}; not its {', '.join(replaced)}" if replaced else text
