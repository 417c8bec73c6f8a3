"""The settings as arguments of ``TRPO``, for type checkers and editors: a name that is wrong, or a
value of another type, is marked where it is written.

``Config`` states each setting; a test holds this list to it.
"""

from __future__ import annotations

from typing import TypedDict

from .._base.choices import (
    ActionMode,
    Activation,
    AdvantageEstimator,
    Algorithm,
    Backend,
    Constraint,
    Engine,
    FisherKind,
    KlDirection,
    KlReduction,
    KlRule,
    PenaltyInner,
    PenaltyRule,
    Precision,
    PreconditionerKind,
    Sampling,
    Std,
    VineActions,
)


class Settings(TypedDict, total=False):
    """Every field of ``Config`` but env, policy and critic, arguments of ``TRPO`` itself."""

    engine: Engine
    workers: int | None
    num_envs: int
    seed: int
    device: str
    rows_per_update: int
    sequence_length: int | None
    sampling: Sampling
    gamma: float
    discount_weights: bool
    advantage: AdvantageEstimator
    gae_lambda: float
    n_step: int
    normalize_advantages: bool
    normalize_observations: bool
    normalize_rewards: bool
    observation_clip: float
    hidden: tuple[int, ...]
    activation: Activation
    std: Std
    cell_width: int
    encoder: tuple[int, ...]
    initial_log_std: float
    action_mode: ActionMode
    cnn_channels: tuple[int, ...]
    cnn_kernels: tuple[int, ...]
    cnn_strides: tuple[int, ...]
    algorithm: Algorithm
    max_kl_final: float | None
    max_kl_hold: int
    max_kl_steps: int
    scale_kl: bool
    kl_rule: KlRule
    kl_least: float
    kl_most: float
    kl_factor: float
    gain_poor: float
    gain_good: float
    updates_per_rollout: int
    fvp_fraction: float
    max_kl: float
    damping: float
    cg_iterations: int
    cg_tol: float
    cg_gain_tol: float
    preconditioner: PreconditionerKind | None
    factor_fraction: float
    backtrack_ratio: float
    backtrack_steps: int
    kl_reduction: KlReduction
    kl_direction: KlDirection
    constraint: Constraint
    fisher: FisherKind
    backend: Backend
    precision: Precision
    deterministic: bool
    capture: bool
    chunk_rows: int | None
    npg_learning_rate: float | None
    pg_learning_rate: float
    pg_max_grad_norm: float | None
    rat_max_rows: int
    penalty: float
    penalty_rule: PenaltyRule
    penalty_rate: float
    penalty_rounds: int
    penalty_tolerance: float
    penalty_min: float
    penalty_max: float
    penalty_inner: PenaltyInner
    penalty_adam_steps: int
    penalty_learning_rate: float
    critic_hidden: tuple[int, ...]
    critic_learning_rate: float
    critic_epochs: int
    critic_minibatch: int
    critic_rows: float
    critic_steps: int
    critic_cg_iterations: int
    critic_damping: float
    critic_fraction: float
    critic_preconditioner: PreconditionerKind | None
    vine_states: int
    vine_branches: int
    vine_actions: VineActions
    vine_length: int
