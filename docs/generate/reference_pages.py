"""The pages of the reference, and the order of their names: as a reader looks for them.

A name of ``trpo_fast`` that is in no section comes at the end of the page of its room.
"""

from __future__ import annotations

from typing import NamedTuple


class Section(NamedTuple):
    """Some names of a module, or where none are given all that it exports."""

    title: str
    module: str
    names: str = ""


class Page(NamedTuple):
    file: str
    title: str
    about: str
    sections: tuple[Section, ...]
    rooms: tuple[str, ...] = ()  # folders of the package whose further names come here


PAGES = (
    Page(
        "updates.md",
        "Updates",
        "Moving a policy on a batch; [`docs/updates.md`](../updates.md) explains them.",
        (
            Section(
                "Update functions",
                "trpo_fast",
                "trpo_update npg_update pg_update kl_penalty_update Penalty rat_update "
                "UpdateOptions UpdateInfo",
            ),
            Section("Rows", "trpo_fast", "Batch distribution_params"),
            Section("The Fisher matrix", "trpo_fast", "FisherOperator Solution"),
            Section("Steps of one's own", "trpo_fast", "NaturalGradient Directions StepInfo"),
            Section(
                "Who computes",
                "trpo_fast",
                "backends BackendUnavailable captured_graphs GraphStatistics",
            ),
        ),
        ("_base", "core", "backends", "updates"),
    ),
    Page(
        "policies.md",
        "Policies",
        "Networks with an action distribution. Any other module that returns one will do.",
        (
            Section(
                "Networks",
                "trpo_fast",
                "MLPPolicy CNNPolicy RecurrentPolicy CNNValues flat_params NetSpec",
            ),
            Section(
                "Heads: the distributions of actions",
                "trpo_fast",
                "Gaussian SquashedGaussian Beta Categorical MultiCategorical Bernoulli Head "
                "register_head unregister_head",
            ),
        ),
        ("policy",),
    ),
    Page(
        "training.md",
        "Training",
        "The agent and what goes with it; every setting of it is in [settings](settings.md).",
        (
            Section("The agent", "trpo_fast", "TRPO Config Critic CheckpointError"),
            Section("Evaluation", "trpo_fast", "evaluate Evaluation EvalCallback"),
            Section(
                "Logs",
                "trpo_fast",
                "ConsoleLogger CsvLogger JsonLogger TensorBoardLogger WandbLogger",
            ),
        ),
        ("learner", "train"),
    ),
    Page(
        "environments.md",
        "Environments",
        "gymnasium's need nothing of this page: `TRPO` takes an id, a function or a vector "
        "environment.",
        (
            Section("What a tensor environment is", "trpo_fast", "TensorEnvironment EnvError"),
            Section("Tensor environments", "trpo_fast.envs.tensor"),
            Section("Simulators", "trpo_fast.envs.simulators"),
        ),
        ("envs",),
    ),
    Page(
        "integrations.md",
        "In other libraries",
        "Classes that stand in for those of other libraries, whose own documentation holds; each "
        "has a page of its own in [docs](../README.md).",
        (
            Section("stable-baselines3, sb3-contrib", "trpo_fast.integrations.sb3"),
            Section("rsl_rl", "trpo_fast.integrations.rsl_rl"),
            Section("skrl", "trpo_fast.integrations.skrl"),
            Section("tianshou", "trpo_fast.integrations.tianshou"),
        ),
    ),
    Page(
        "theory.md",
        "Theory",
        "The statements behind TRPO on small exact problems, in float64. "
        "`trpo_fast.theory.statements` says which function computes which statement.",
        (Section("Functions and problems", "trpo_fast.theory"),),
    ),
    Page(
        "bench.md",
        "Benchmarks",
        "What `trpo-fast bench` is made of; [`benchmarks/README.md`](../../benchmarks/README.md) "
        "says how it measures.",
        (
            Section("Cases and times", "trpo_fast.bench"),
            Section("Opponents", "trpo_fast.bench.opponents"),
        ),
    ),
)
