"""Several updates on one rollout: each on the same rows, the limit on the KL to the policy that
sampled them growing to max_kl.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import Case
from small_runs import SMALL, parameters, train
from torch import Tensor
from torch.distributions import kl_divergence

from trpo_fast import Batch, MLPPolicy, distribution_params, flat_params
from trpo_fast.train.config import Config
from trpo_fast.train.rules import apply_rule, apply_rules, make_penalty

pytest.importorskip("gymnasium")

from trpo_fast import TRPO

ALGORITHMS = ("trpo", "npg", "pg", "kl-penalty")
MAX_KL = 0.02


def fresh(head: str = "gaussian") -> tuple[MLPPolicy, Batch]:
    case = Case(head, obs_dim=3, rows=80, dtype=torch.float32)
    policy = case.policy()
    return policy, case.batch(policy)


def kl_between(before: MLPPolicy, after: MLPPolicy, obs: Tensor) -> float:
    """The mean KL on rows obs [N, O], by torch in float64."""
    with torch.no_grad():
        old, new = (copy.deepcopy(p).double()(obs.double()) for p in (before, after))
    return float(kl_divergence(old, new).mean())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_update_is_what_it_always_was(algorithm: str) -> None:
    config = Config(algorithm=algorithm, max_kl=MAX_KL)
    found = []
    for rule in (apply_rule, apply_rules):
        policy, batch = fresh()
        info = rule(policy, batch, config, make_penalty(config), MAX_KL, sync=True)
        assert info.kl_from == "call"
        found.append((flat_params(policy).clone(), info.stats))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_update_has_its_limit_on_the_kl_to_the_sampler(algorithm: str) -> None:
    config = Config(algorithm=algorithm, max_kl=MAX_KL, updates_per_rollout=2)
    policy, batch = fresh()
    info = apply_rules(policy, batch, config, make_penalty(config), MAX_KL, sync=True)
    by_hand, _ = fresh()
    penalty = make_penalty(config)
    rows = replace(batch, old_params=distribution_params(by_hand, batch.obs))
    apply_rule(by_hand, batch, config, penalty, MAX_KL / 4, sync=True)
    apply_rule(by_hand, rows, config, penalty, MAX_KL, sync=True)
    assert torch.equal(flat_params(policy), flat_params(by_hand))
    sampler, _ = fresh()
    assert info.kl_from == "sampler"
    assert info.kl == pytest.approx(kl_between(sampler, policy, batch.obs), rel=1e-3)


@pytest.mark.parametrize("head", ["gaussian", "categorical"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_short_steps_add_up_to_the_limit(count: int, head: str) -> None:
    """Where the quadratic model holds: n lengths of sqrt(max_kl) / n, whatever n is."""
    limit = 1e-3
    config = Config(max_kl=limit, damping=1e-4, updates_per_rollout=count, cg_iterations=40)
    policy, batch = fresh(head)
    sampler = copy.deepcopy(policy)
    info = apply_rules(policy, batch, config, make_penalty(config), limit, sync=True)
    assert info.accepted and info.kl <= limit
    assert kl_between(sampler, policy, batch.obs) > 0.6 * limit


@pytest.mark.parametrize(
    "settings", [{"algorithm": a} for a in ALGORITHMS] + [{"engine": "tensor"}]
)
def test_training_reports_the_last_update(settings: dict[str, Any]) -> None:
    agent = TRPO("CartPole-v1", **SMALL, **settings, updates_per_rollout=3, max_kl=MAX_KL)
    before = copy.deepcopy(agent.policy)
    record = agent.train_once()
    obs = agent.collector.buffers.obs.flatten(0, 1)
    assert record["kl"] == pytest.approx(kl_between(before, agent.policy, obs), rel=1e-2, abs=3e-7)
    assert record["kl"] > 0 and "kl_from" not in record
    if "algorithm" not in settings or settings["algorithm"] == "trpo":
        assert record["max_kl"] == MAX_KL and record["kl"] <= MAX_KL
        assert record["kl"] > MAX_KL / 3, "further than one of the three updates goes"


def test_the_critic_is_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, fits = TRPO("CartPole-v1", **SMALL, updates_per_rollout=3), []
    fit = agent.critic.fit
    monkeypatch.setattr(agent.critic, "fit", lambda *a, **k: fits.append(1) or fit(*a, **k))
    agent.train_once()
    assert len(fits) == 1 and agent.updates == 1


def test_the_limit_of_a_schedule_is_the_last_updates() -> None:
    settings = {"max_kl": 0.04, "max_kl_final": 0.0004, "max_kl_steps": 128, "scale_kl": True}
    agent = TRPO("CartPole-v1", **SMALL, **settings, updates_per_rollout=2)
    limits = []
    for _ in range(3):
        record = agent.train_once()
        assert record["kl"] <= record["max_kl"]
        limits.append(record["max_kl"])
    assert limits[0] == pytest.approx(0.04) and limits[1] < 0.02 and limits[2] < 0.0004 + 1e-9


def test_vine_takes_several_as_well() -> None:
    settings = {"sampling": "vine", "vine_states": 16, "vine_length": 4}
    agent = TRPO("CartPole-v1", **SMALL, **settings, updates_per_rollout=2)
    one = TRPO("CartPole-v1", **SMALL, **settings, max_kl=0.0025)
    assert agent.train_once()["kl"] > one.train_once()["kl"]


@pytest.mark.parametrize("algorithm", ["trpo", "kl-penalty"])
def test_a_resumed_run_goes_on_bit_for_bit(algorithm: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    settings = {**SMALL, "algorithm": algorithm, "updates_per_rollout": 2, "constraint": "max"}
    whole = TRPO("CartPole-v1", **settings).learn(4 * 64)
    part = TRPO("CartPole-v1", **settings).learn(2 * 64)
    part.save(tmp_path / "agent")
    resumed = TRPO.load(tmp_path / "agent")
    assert resumed.config == part.config and resumed.config.updates_per_rollout == 2
    assert torch.equal(parameters(resumed.learn(2 * 64)), parameters(whole))


def test_the_command_line_takes_it(tmp_path: Path) -> None:
    assert train(tmp_path / "two", 128, "--updates-per-rollout", "2") == 0
    assert train(tmp_path / "one", 128) == 0
    two, one = (TRPO.load(tmp_path / name) for name in ("two", "one"))
    assert two.config.updates_per_rollout == 2 and two.updates == one.updates == 2
    assert not torch.equal(flat_params(two.policy), flat_params(one.policy))
