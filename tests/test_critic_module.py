"""The plain PyTorch critic: both fits reduce the loss, targets are normalised without moving
predictions.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trpo_fast.critic_module import ModuleCritic


def problem(rows: int = 600) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    obs = torch.randn(rows, 3, generator=draw)
    returns = 50.0 + 20.0 * torch.sin(obs[:, 0]) * obs[:, 1] + obs[:, 2]
    return obs, returns


@pytest.mark.parametrize("method", ["adam", "gauss_newton"])
def test_fits_explain_the_returns(method: str) -> None:
    torch.manual_seed(0)
    obs, returns = problem()
    critic = ModuleCritic(3, (32, 32), method=method, minibatch=128, fraction=0.5)
    for _ in range(10):
        critic.fit(obs, returns, generator=torch.Generator().manual_seed(0))
    left = (critic.values(obs) - returns).var() / returns.var()
    assert float(left) < 0.1


@pytest.mark.parametrize("method", ["adam", "gauss_newton"])
def test_a_gradient_step_equals_torch(method: str) -> None:
    torch.manual_seed(0)
    obs, returns = problem(50)
    rows, seeds = len(obs), torch.Generator().manual_seed(3)
    critic = ModuleCritic(3, (8,), method=method, epochs=1, minibatch=rows, steps=1, fraction=1.0)
    start, targets = critic.theta.double().clone(), (returns - returns.mean()) / returns.std(False)
    loss, g = critic._gradient(obs, targets)
    critic.fit(obs, returns, generator=seeds)
    if method == "adam":  # its first step is the sign of the gradient times the rate
        wanted = start - critic.learning_rate * g.double().sign() * (g.abs() > 1e-6)
        torch.testing.assert_close(critic.theta.double(), wanted, atol=1e-4, rtol=0)
    else:
        after, _ = critic._gradient(obs, targets)
        assert after < loss


def test_moving_target_statistics_do_not_move_predictions() -> None:
    torch.manual_seed(0)
    obs, returns = problem()
    critic = ModuleCritic(3, (16,))
    critic.fit(obs, returns)
    before = critic.values(obs)
    critic._renormalise(returns * 3.0 - 500.0)
    torch.testing.assert_close(critic.values(obs), before, rtol=1e-4, atol=1e-3)


def test_state_continues_bit_for_bit() -> None:
    torch.manual_seed(0)
    obs, returns = problem()
    first, second = ModuleCritic(3, (16,)), ModuleCritic(3, (16,))
    first.fit(obs, returns, generator=torch.Generator().manual_seed(1))
    second.load_state_dict(first.state_dict())
    for critic in (first, second):
        critic.fit(obs, returns, generator=torch.Generator().manual_seed(2))
    assert torch.equal(first.theta, second.theta) and torch.equal(first.moments, second.moments)


def test_a_gauss_newton_fit_never_raises_the_loss() -> None:
    torch.manual_seed(0)
    obs, returns = problem(40)
    critic = ModuleCritic(3, (64, 64), method="gauss_newton", fraction=0.1, damping=1e-6)
    critic.fit(obs, returns)
    targets = (returns - critic.mean) / critic.std
    before = critic._loss(obs, targets)
    assert critic._fit_gauss_newton(obs, targets, None) <= before


def test_bad_settings_and_states_are_refused() -> None:
    with pytest.raises(ValueError, match="critic: expected one of"):
        ModuleCritic(3, method="sgd")
    with pytest.raises(RuntimeError, match="size mismatch"):
        ModuleCritic(3).load_state_dict(ModuleCritic(4).state_dict())
