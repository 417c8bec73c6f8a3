"""Every setting of an update reaches the update that it is for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import Case

from trpo_fast import (
    Batch,
    MLPPolicy,
    Penalty,
    flat_params,
    kl_penalty_update,
    npg_update,
    rat_update,
)
from trpo_fast import pg_update as pg
from trpo_fast import trpo_update as trpo
from trpo_fast.core.problem import BackendUnavailable
from trpo_fast.train.config import Config
from trpo_fast.train.rules import apply_rule, check_serves, make_penalty, raise_for_values

MAX_KL, DAMPING = 0.5, 1e-3  # the line search has something to do


def penalised(policy: MLPPolicy, batch: Batch, **options: Any) -> Any:
    penalty = Penalty(options.pop("value", 1.0), options.pop("rule", "adaptive"), target_kl=MAX_KL)
    return kl_penalty_update(policy, batch, penalty, **options)


CASES: list[tuple[dict[str, Any], Callable[..., Any], dict[str, Any]]] = [
    ({}, trpo, {}),
    ({"kl_reduction": "mean"}, trpo, {"kl_reduction": "mean"}),
    ({"kl_direction": "reverse"}, trpo, {"kl_direction": "reverse"}),
    ({"constraint": "max"}, trpo, {"constraint": "max"}),
    ({"fisher": "empirical"}, trpo, {"fisher": "empirical"}),
    ({"fvp_fraction": 0.25}, trpo, {"fvp_rows": 10}),
    ({"damping": 0.7}, trpo, {"damping": 0.7}),
    ({"cg_iterations": 2}, trpo, {"cg_iterations": 2}),
    ({"cg_tol": 0.9}, trpo, {"cg_tol": 0.9}),
    ({"backtrack_ratio": 0.3}, trpo, {"backtrack_ratio": 0.3}),
    ({"backtrack_steps": 2}, trpo, {"backtrack_steps": 2}),
    ({"backend": "reference"}, trpo, {"backend": "reference"}),
    ({"algorithm": "npg"}, npg_update, {}),
    ({"algorithm": "npg", "npg_learning_rate": 0.3}, npg_update, {"learning_rate": 0.3}),
    ({"algorithm": "pg"}, pg, {}),
    ({"algorithm": "pg", "pg_learning_rate": 0.3}, pg, {"learning_rate": 0.3}),
    (
        {"algorithm": "pg", "pg_max_grad_norm": 0.01},
        pg,
        {"max_grad_norm": 0.01},
    ),
    ({"algorithm": "kl-penalty"}, penalised, {}),
    ({"algorithm": "kl-penalty", "penalty": 9.0}, penalised, {"value": 9.0}),
    ({"algorithm": "kl-penalty", "penalty_inner": "adam"}, penalised, {"inner": "adam"}),
    (
        {"algorithm": "kl-penalty", "penalty_inner": "adam", "penalty_adam_steps": 3},
        penalised,
        {"inner": "adam", "adam_steps": 3},
    ),
    (
        {"algorithm": "kl-penalty", "penalty_inner": "adam", "penalty_learning_rate": 0.01},
        penalised,
        {"inner": "adam", "learning_rate": 0.01},
    ),
    ({"algorithm": "rat"}, rat_update, {}),
    ({"algorithm": "rat", "rat_max_rows": 39}, rat_update, {"max_rows": 39}),
    ({"algorithm": "rat", "fvp_fraction": 0.9}, rat_update, {"fvp_rows": 36}),
    ({"algorithm": "rat", "backtrack_ratio": 0.3}, rat_update, {"backtrack_ratio": 0.3}),
]


def fresh() -> tuple[MLPPolicy, Batch]:
    case = Case("gaussian", obs_dim=3, rows=40, dtype=torch.float32)
    policy = case.policy()
    return policy, case.batch(policy)


def outcome(info: Any, policy: MLPPolicy) -> torch.Tensor:
    return torch.cat([flat_params(policy).double(), torch.tensor([info.kl]).double()])


def configured(settings: dict[str, Any]) -> torch.Tensor:
    (policy, batch), config = fresh(), Config(**{"max_kl": MAX_KL, "damping": DAMPING, **settings})
    info = apply_rule(policy, batch, config, make_penalty(config), MAX_KL, sync=True)
    assert info.backend == settings.get("backend", info.backend)
    return outcome(info, policy)


@pytest.mark.parametrize(
    ("settings", "update", "options"), CASES, ids=[str(case[0]) for case in CASES]
)
def test_a_setting_reaches_its_update(
    settings: dict[str, Any], update: Callable[..., Any], options: dict[str, Any]
) -> None:
    policy, batch = fresh()
    if update is not pg:
        options = {"damping": DAMPING, **options}
    if update not in (pg, penalised):
        options = {"max_kl": MAX_KL, **options}
    assert torch.equal(configured(settings), outcome(update(policy, batch, **options), policy))


def test_no_two_settings_do_the_same() -> None:
    # Backends may agree to the last bit.
    names = [settings for settings, _, _ in CASES if "backend" not in settings]
    found = [configured(settings) for settings in names]
    for i, first in enumerate(found):
        for j in range(i):
            assert not torch.equal(first, found[j]), (names[i], names[j])


def test_the_penalty_is_the_configs() -> None:
    config = Config(penalty=3.0, penalty_rule="dual", penalty_rate=0.5, max_kl=0.02)
    assert make_penalty(config) == Penalty(3.0, "dual", target_kl=0.02, rate=0.5)


@pytest.mark.parametrize(
    ("settings", "limited"),
    [
        ({}, True),
        ({"algorithm": "npg"}, True),
        ({"algorithm": "npg", "npg_learning_rate": 0.3}, False),
        ({"algorithm": "pg"}, False),
        ({"algorithm": "rat"}, True),
        ({"algorithm": "kl-penalty"}, True),
        ({"algorithm": "kl-penalty", "penalty_rule": "fixed"}, False),
    ],
)
def test_a_limit_is_reported_where_there_is_one(settings: dict[str, Any], limited: bool) -> None:
    pytest.importorskip("gymnasium")
    from trpo_fast import TRPO

    record = TRPO("CartPole-v1", num_envs=2, rows_per_update=32, **settings).train_once()
    assert math.isnan(record["max_kl"]) is not limited


def test_what_cannot_be_served_is_said_before_there_are_rows() -> None:
    policy, batch = fresh()
    obs = batch.obs[:2]
    check_serves(policy, policy.head, Config(), obs)
    with pytest.raises(BackendUnavailable, match=r"^backend='reference': .*, got: precision="):
        config = Config(backend="reference", precision="bf16x3")
        check_serves(policy, policy.head, config, obs)
    policy.net[0].bias.requires_grad_(False)
    check_serves(policy, policy.head, Config(backend="reference"), obs)
    with pytest.raises(ValueError, match=r"^policy: expected an MLPPolicy .* net.0 is frozen$"):
        check_serves(policy, policy.head, Config(algorithm="rat"), obs)


@pytest.mark.parametrize("settings", [{}, {"fvp_fraction": 0.25}, {"updates_per_rollout": 2}])
def test_a_look_at_the_values_moves_nothing(settings: dict[str, Any]) -> None:
    policy, batch = fresh()
    before, config = flat_params(policy).clone(), Config(**settings)
    raise_for_values(policy, batch, config)
    batch.advantages[3] = math.nan  # type: ignore[index]
    with pytest.raises(ValueError, match=r"^advantages: expected finite values, got nan"):
        raise_for_values(policy, batch, config)
    assert torch.equal(before, flat_params(policy))
