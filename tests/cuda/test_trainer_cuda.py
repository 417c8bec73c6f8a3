"""The whole loop over a tensor environment with ``backend="cuda"``: on a GPU where there is one,
otherwise with the CUDA kernels emulated on the host.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("gymnasium")

from cuda_graph import asked_from, no_values_compared, waits
from cuda_support import DEVICE, EMULATED, kernels  # noqa: F401 (an autouse fixture)

from trpo_fast.policy.flat import flat_params
from trpo_fast.train.trainer import TRPO

SMALL: dict[str, Any] = {
    "engine": "tensor",
    "device": str(DEVICE),
    "num_envs": 4,
    "rows_per_update": 64,
    "hidden": (16,),
    "critic_hidden": (16,),
    "cg_iterations": 3,
    "fvp_fraction": 1.0,
    "critic_rows": 1.0,
    "seed": 1,
}


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_an_update_follows_the_reference(env: str) -> None:
    ours, theirs = (TRPO(env, backend=name, **SMALL) for name in ("cuda", "reference"))
    record, wanted = ours.train_once(), theirs.train_once()
    assert (record["backend"], record["reason"]) == ("cuda", wanted["reason"])
    assert record["kl"] == pytest.approx(wanted["kl"], rel=1e-3)
    torch.testing.assert_close(
        flat_params(ours.policy), flat_params(theirs.policy), rtol=1e-3, atol=1e-4
    )


def test_gauss_newton_fits_the_critic_there() -> None:
    agent, twin = (
        TRPO("LQR-v0", backend=name, critic="gauss_newton", **SMALL)
        for name in ("cuda", "reference")
    )
    losses = [each.train_once()["critic_loss"] for each in (agent, twin)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    torch.testing.assert_close(agent.critic.theta, twin.critic.theta, rtol=1e-2, atol=1e-3)
    second = agent.train_once()
    assert second["reason"] == "accepted" and np.isfinite(second["critic_loss"])
    assert agent.steps == 128 and torch.isfinite(flat_params(agent.policy)).all()


class Asked(TorchDispatchMode):
    """Records every operator whose answer the host needs before it can go on."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.listening = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.listening and (name := waits(func, args)):
            self.found.append(f"{name}: {asked_from()}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("critic", ["adam", "gauss_newton"])
@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize(
    ("algorithm", "targets"),
    [
        ("trpo", {}),
        ("npg", {"advantage": "returns"}),
        ("pg", {}),
        ("trpo", {"advantage": "n_step", "n_step": 3, "discount_weights": True}),
    ],
)
def test_nothing_is_asked_of_the_device_before_the_end(
    monkeypatch, updates, critic, algorithm, targets
) -> None:
    """From the first step of a rollout to the last launch of the critic's fit. A snapshot compares
    values of CPU tensors only: that does not count.
    """
    options = {
        "normalize_observations": True,
        "normalize_rewards": True,
        "critic_rows": 0.5,
        "fvp_fraction": 0.5,
    }
    options |= {"critic_steps": 1, "critic_epochs": 1, "algorithm": algorithm, "critic": critic}
    options |= targets
    options["updates_per_rollout"] = updates
    agent = TRPO("Pendulum-v1", backend="cuda", **(SMALL | options))
    agent.train_once()  # what is made once is made
    no_values_compared(monkeypatch)
    asked, read = Asked(), agent._read

    def stop(*arguments):
        asked.listening = False
        read(*arguments)

    monkeypatch.setattr(agent, "_read", stop)
    with asked:
        record = agent.train_once()
    assert asked.found == [] and not asked.listening and np.isfinite(record["critic_loss"])


@pytest.mark.skipif(not EMULATED, reason="on a device, the reference does not wait either")
def test_questions_are_noticed() -> None:
    agent = TRPO("Pendulum-v1", backend="reference", **SMALL)
    with Asked() as asked:
        agent.train_once()
    assert any("_local_scalar_dense" in question for question in asked.found)


@pytest.mark.parametrize("updates", [1, 2])
def test_bad_values_are_raised_at_the_end_and_move_nothing(monkeypatch, updates) -> None:
    agent = TRPO("Pendulum-v1", backend="cuda", **SMALL, updates_per_rollout=updates)
    before = flat_params(agent.policy).clone(), agent.critic.theta.clone()
    rewards = agent.envs.dynamics
    bad = lambda *given: (lambda s, r, t: (s, r * torch.nan, t))(*rewards(*given))  # noqa: E731
    monkeypatch.setattr(agent.envs, "dynamics", bad)
    with pytest.raises(ValueError, match="advantages: expected finite values"):
        agent.train_once()
    assert torch.equal(before[0], flat_params(agent.policy))
    assert torch.equal(before[1], agent.critic.theta)


@pytest.mark.parametrize("backend", ["cuda", "reference"])
def test_a_final_observation_that_is_not_finite_is_refused(monkeypatch, backend) -> None:
    """The next episode's first value does not stand in for its own."""
    agent = TRPO("Pendulum-v1", backend=backend, **SMALL)
    agent.envs.max_episode_steps = 5
    step = agent.envs.step

    def bad(actions):
        came = step(actions)
        final = torch.where(came.truncated[:, None], torch.nan, came.final_obs)
        return replace(came, final_obs=final)

    monkeypatch.setattr(agent.envs, "step", bad)
    with pytest.raises(ValueError, match="expected finite values"):
        agent.train_once()


@pytest.mark.parametrize("backend", ["cuda", "reference"])
@pytest.mark.parametrize("which", [0, 1], ids=["obs", "rewards"])
def test_training_goes_on_once_the_values_are_finite_again(monkeypatch, which, backend) -> None:
    """The running statistics have not kept the bad rollout."""
    options = {"normalize_observations": True, "normalize_rewards": True} | SMALL
    agent = TRPO("Pendulum-v1", backend=backend, **options)
    agent.train_once()
    dynamics = agent.envs.dynamics

    def bad(*given):
        came = list(dynamics(*given))
        came[which] = came[which] * torch.nan
        return tuple(came)

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="expected finite"):
        patch.setattr(agent.envs, "dynamics", bad)
        agent.train_once()
    agent.collector.start(7)
    assert np.isfinite(agent.train_once()["critic_loss"])


def test_episodes_of_an_update_that_failed_are_counted_on(monkeypatch) -> None:
    """Nobody has asked the device for them when the next rollout begins."""
    agents = [TRPO("Pendulum-v1", backend="cuda", **SMALL) for _ in range(2)]
    for agent in agents:
        agent.envs.max_episode_steps = 20
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(agents[0], "update", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        agents[0].train_once()
    agents[1].start()
    agents[1].collect()
    assert agents[0].asynchronous
    returns = [agent.collect().returns for agent in agents]
    assert returns[0] == returns[1] and len(returns[0]) == 4


def test_episodes_are_counted_as_on_the_host() -> None:
    ours, theirs = (TRPO("CartPole-v1", backend=name, **SMALL) for name in ("cuda", "reference"))
    for _ in range(2):
        records = ours.train_once(), theirs.train_once()
        assert ours.asynchronous and not (EMULATED and theirs.asynchronous)
        for name in ("episodes", "steps", "collected"):
            assert records[0][name] == records[1][name]
    assert ours.episodes > 0
