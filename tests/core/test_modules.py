"""Any module that returns a distribution: torch.func Gauss-Newton, and the double backward."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases import Case
from exactness import FLOAT32_PRODUCT, relative_error
from module_cases import DISTRIBUTIONS, Custom, setup
from torch import nn
from torch.distributions import Categorical, Normal, Poisson

from trpo_fast import (
    BackendUnavailable,
    Batch,
    FisherOperator,
    Gaussian,
    MLPPolicy,
    Penalty,
    flat_params,
    kl_penalty_update,
    trpo_update,
)
from trpo_fast.backends.native import net_support


@pytest.mark.parametrize("backend", ["reference", "autograd"])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_fvp_equals_dense_fisher(name, backend):
    policy, obs = setup(name)
    F = FisherOperator(policy, obs, backend=backend)
    v = torch.randn(F.shape[0], 2, dtype=torch.float64)
    assert relative_error(F @ v, F.dense() @ v) < 1e-10


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_update_improves(name):
    policy, obs = setup(name)
    distribution = policy(obs)
    base = distribution.base_dist if name == "squashed" else distribution
    actions = base.sample()
    advantages = torch.randn(21, dtype=torch.float64)
    info = trpo_update(policy, Batch(obs, actions, advantages))
    assert info.accepted and info.kl <= 0.01 and info.backend == "reference"
    assert info.surrogate_after > info.surrogate_before


def test_frozen_parameters_stay_out():
    policy, obs = setup("categorical")
    for p in policy.trunk.parameters():
        p.requires_grad_(False)
    kept = [p.clone() for p in policy.trunk.parameters()]
    batch = Batch(obs, policy(obs).sample(), torch.randn(21, dtype=torch.float64))
    assert trpo_update(policy, batch).accepted
    assert flat_params(policy).numel() == sum(p.numel() for p in policy.out.parameters())
    assert all(torch.equal(a, b) for a, b in zip(kept, policy.trunk.parameters(), strict=True))


def test_unknown_distributions_are_named():
    policy = Custom(lambda z: Poisson(z.exp())).double()
    obs = torch.randn(5, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"policy: expected .* Normal.*Poisson"):
        FisherOperator(policy, obs) @ torch.randn(flat_params(policy).numel(), dtype=torch.float64)


class OneNumber(nn.Module):
    """An action of one number a row, as [N] or [N, 1]."""

    def __init__(self, column):
        super().__init__()
        self.out, self.column = nn.Linear(4, 1), column

    def forward(self, obs):
        mean = self.out(obs) if self.column else self.out(obs)[:, 0]
        return Normal(mean, torch.ones_like(mean))


def test_actions_of_one_number_may_lack_their_column():
    torch.manual_seed(0)
    obs, advantages = torch.randn(9, 4), torch.randn(9)
    actions, moved = torch.randn(9), []
    for column in (False, True):
        torch.manual_seed(1)
        policy = OneNumber(column)
        given = actions[:, None] if column else actions
        assert trpo_update(policy, Batch(obs, given, advantages)).accepted
        moved.append(flat_params(policy).clone())
    torch.testing.assert_close(*moved)


class Masked(Custom):
    def forward(self, obs, mask):
        return Categorical(logits=torch.where(mask, self.out(self.trunk(obs)), -1e30))


def test_a_module_that_returns_a_tensor_is_named_without_its_numbers():
    policy = torch.nn.Linear(4, 3)
    with pytest.raises(
        ValueError, match=r"^policy: expected a module that returns .*, got Tensor$"
    ):
        trpo_update(policy, Batch(torch.randn(7, 4), torch.randn(7, 3), torch.randn(7)))


def test_masks_reach_a_module_and_impossible_actions_are_named():
    torch.manual_seed(0)
    policy, obs = Masked(None), torch.randn(7, 4)
    mask = torch.tensor([True, True, True, False]).expand(7, -1)
    before = flat_params(policy).clone()
    for actions, words in (
        ([9] * 7, "choices from 0 to 3, got 9"),
        ([3] * 7, "action_mask allows"),
    ):
        batch = Batch(obs, torch.tensor(actions), torch.randn(7), action_mask=mask)
        with pytest.raises(ValueError, match=f"actions: expected .*{words}"):
            trpo_update(policy, batch)
    with pytest.raises(ValueError, match="actions: expected dtype"):
        trpo_update(policy, Batch(obs, torch.zeros(7), torch.randn(7), action_mask=mask))
    assert torch.equal(flat_params(policy), before)
    batch = Batch(obs, torch.zeros(7, dtype=torch.long), torch.randn(7), action_mask=mask)
    assert trpo_update(policy, batch, kl_reduction="mean").accepted


@pytest.mark.parametrize("frozen", ["net.0.weight", "head.log_std"])
@pytest.mark.parametrize("backend", ["auto", "autograd"])
def test_frozen_parameters_of_an_mlp_stay(frozen, backend):
    torch.manual_seed(0)
    policy = MLPPolicy(4, Gaussian(2), (5,))
    fixed = policy.get_parameter(frozen).requires_grad_(False)
    kept, obs = fixed.clone(), torch.randn(17, 4)
    F = FisherOperator(policy, obs, backend=backend)
    v = torch.randn(F.shape[0])
    assert relative_error((F @ v).double(), F.dense() @ v.double()) < FLOAT32_PRODUCT
    info = trpo_update(policy, Batch(obs, torch.randn(17, 2), torch.randn(17)), backend=backend)
    assert info.accepted and torch.equal(fixed, kept)
    with pytest.raises(BackendUnavailable, match=r"frozen|not working|without|native"):
        FisherOperator(policy, obs, backend="cpu")


class Scaled(MLPPolicy):
    def distribution_params(self, obs, action_mask=None):
        return super().distribution_params(3.0 * obs, action_mask)


def edited():
    policy = MLPPolicy(4, Gaussian(2), (5,))
    policy.net[1] = nn.ReLU()
    return policy


@pytest.mark.parametrize("make", [lambda: Scaled(4, Gaussian(2), (5,)), edited])
def test_what_an_mlp_policy_was_turned_into_is_what_counts(make):
    torch.manual_seed(0)
    policy, obs = make().double(), torch.randn(17, 4, dtype=torch.float64)
    F = FisherOperator(policy, obs)
    v = torch.randn(F.shape[0], dtype=torch.float64)
    mean = torch.func.jacrev(lambda p: torch.func.functional_call(policy, p, (obs,)).mean)
    parts = mean({name: p.detach() for name, p in policy.named_parameters()})
    J = torch.cat([part.flatten(2) for part in parts.values()], -1)[..., :-2].flatten(0, 1)
    free = torch.cat([J.T @ (J @ v[:-2]) / 17, 2.0 * v[-2:]])  # unit variance, then log_std
    assert F.backend == "reference" and relative_error(F @ v, free + 0.1 * v) < 1e-10
    with pytest.raises(BackendUnavailable):
        FisherOperator(policy, obs, backend="cpu")


@torch.no_grad()
def test_autograd_works_where_gradients_are_off():
    policy, obs = MLPPolicy(4, Gaussian(2), (5,)), torch.randn(9, 4)
    batch = Batch(obs, torch.randn(9, 2), torch.randn(9))
    assert trpo_update(policy, batch, backend="autograd").accepted
    assert kl_penalty_update(policy, batch, Penalty(rule="fixed"), inner="adam").accepted


def test_no_kernel_takes_an_mlp_that_was_edited():
    for policy in (edited(), Scaled(4, Gaussian(2), (5,))):
        assert FisherOperator(policy, torch.randn(3, 4)).backend == "reference"
        assert not net_support("policy", policy)


ROWS = Case(rows=33, weights=True, dtype=torch.float32)


class Sequences(nn.Module):
    """Takes its rows in runs of eleven only."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(5, 3)

    def forward(self, obs):
        mean = self.map(obs.view(-1, 11, 5)).flatten(0, 1)
        return Normal(mean, torch.ones_like(mean), validate_args=False)


def test_a_module_that_takes_its_rows_only_together():
    policy, batch = Sequences(), replace(ROWS.batch(ROWS.policy()), log_probs=None)
    assert trpo_update(policy, batch).accepted
    short = replace(batch.rows(slice(0, 12)), weights=None)
    takes = r"a module that takes float32 \[12, 5\]"
    with pytest.raises(ValueError, match=rf"^policy: expected {takes}, got the error: shape '"):
        trpo_update(policy, short)


def test_why_no_backend_can_serve_is_a_sentence():
    policy, batch = Sequences(), ROWS.batch(ROWS.policy())
    said = r"got none: cpu cannot: .+; cuda cannot: .+; reference cannot: precision='fp16x3' is not"
    with pytest.raises(BackendUnavailable, match=said):
        FisherOperator(policy, batch.obs, precision="fp16x3")


class Recurrent(nn.Module):
    """A GRU over three steps: torch knows no forward derivative of it everywhere."""

    def __init__(self):
        super().__init__()
        self.gru, self.out = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, obs):
        return Categorical(logits=self.out(self.gru(obs)[0][:, -1]))


@pytest.mark.parametrize("backend", ["reference", "autograd"])
def test_recurrent_modules(backend):
    torch.manual_seed(0)
    policy, obs = Recurrent().double(), torch.randn(9, 3, 4, dtype=torch.float64)
    F = FisherOperator(policy, obs, backend=backend)
    v = torch.randn(F.shape[0], dtype=torch.float64)
    parameters = list(policy.parameters())
    logits = policy(obs).logits
    rows = [torch.autograd.grad(z, parameters, retain_graph=True) for z in logits.reshape(-1)]
    J = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
    p = logits.detach().exp()
    Jv = (J @ v).view(9, 3)
    MJv = p * Jv - p * (p * Jv).sum(-1, keepdim=True)
    assert relative_error(F @ v, J.T @ MJv.reshape(-1) / 9 + 0.1 * v) < 1e-10
    batch = Batch(obs, policy(obs).sample(), torch.randn(9, dtype=torch.float64))
    assert trpo_update(policy, batch, backend=backend).accepted
    assert all(
        a is b for a, b in zip(policy.gru._flat_weights, policy.gru.parameters(), strict=True)
    )


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, obs):
        return Categorical(logits=self.out(self.layer(obs).mean(1)))


@pytest.mark.parametrize("training", [True, False])
def test_attention_says_how_it_can_be_differentiated(training):
    torch.manual_seed(0)
    policy, obs = Attention().double().train(training), torch.randn(9, 3, 4, dtype=torch.float64)
    F = FisherOperator(policy, obs)
    v = torch.randn(F.shape[0], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"policy: expected operators .*sdpa_kernel\(SDPBackend"):
        F @ v
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        F = FisherOperator(policy, obs)
        other = FisherOperator(policy, obs, backend="autograd")
        assert relative_error(F @ v, other @ v) < 1e-10
