"""What about a module, its rows or its surroundings keeps an update from being one: named, or kept
out.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from exactness import FLOAT32_PRODUCT, relative_error
from module_cases import DISTRIBUTIONS, Custom, setup
from torch import nn
from torch.distributions import Categorical, Distribution, Normal

from trpo_fast import (
    Batch,
    FisherOperator,
    Gaussian,
    MLPPolicy,
    Penalty,
    flat_params,
    kl_penalty_update,
    trpo_update,
)

pytestmark = pytest.mark.attack


class Masking(Custom):
    def forward(self, obs, mask):
        logits = self.out(self.trunk(obs))
        return Categorical(logits=torch.where(mask, logits, -float("inf")))


def bad_rows(name):
    """A policy whose distributions look at their parameters, and a batch they cannot take."""
    torch.manual_seed(0)
    if name == "mask":
        policy, mask = Masking(None), torch.ones(9, 4, dtype=torch.bool)
        mask[3] = False
        return policy, Batch(
            torch.randn(9, 4), torch.zeros(9).long(), torch.randn(9), action_mask=mask
        )
    policy, obs = Custom(DISTRIBUTIONS[name]), torch.randn(9, 4)
    actions = policy(obs).sample()
    obs[3, 1] = float("nan")
    return policy, Batch(obs, actions, torch.randn(9))


@pytest.mark.parametrize("backend", ["reference", "autograd"])
@pytest.mark.parametrize("name", ["normal", "independent", "categorical", "bernoulli", "mask"])
def test_bad_rows_are_named_or_become_the_reason(name, backend):
    policy, batch = bad_rows(name)
    argument = "action_mask" if name == "mask" else "obs"
    words = (
        "at least one allowed" if name == "mask" else r"finite values, got nan at index \[3, 1\]"
    )
    before = flat_params(policy).clone()
    with pytest.raises(ValueError, match=f"{argument}: expected {words}"):
        trpo_update(policy, batch, backend=backend)
    with pytest.raises(ValueError, match=f"{argument}: expected {words}"):
        FisherOperator(policy, batch.obs, action_mask=batch.action_mask, backend=backend)
    assert trpo_update(policy, batch, backend=backend, sync=False).reason == "bad_values"
    assert torch.equal(flat_params(policy), before)
    good = torch.ones(9)
    good[3] = 0.0
    assert trpo_update(policy, replace(batch, weights=good), backend=backend).accepted


class Growing(nn.Module):
    """A scale that leaves float32 on a long step."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Linear(4, 1)
        self.log_std = nn.Parameter(torch.full((1,), -40.0))

    def forward(self, obs):
        mean = self.mean(obs)
        return Normal(mean, self.log_std.exp().expand_as(mean))


@pytest.mark.parametrize("looks", [True, False])
def test_a_step_to_no_distribution_is_only_one_that_is_not_taken(looks, monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", looks)  # torch.compile turns it off
    torch.manual_seed(0)
    policy, obs = Growing(), torch.randn(9, 4)
    actions = policy(obs).mean.detach()  # a smaller scale is better without end
    batch = Batch(obs, actions, torch.ones(9))
    info = trpo_update(policy, batch, max_kl=1e4, backtrack_steps=1)
    assert info.reason == "line_search_failed" and (policy.log_std == -40.0).all()
    with torch.no_grad():
        policy.log_std.fill_(float("nan"))
    with pytest.raises(ValueError, match="policy: expected a distribution in every row, got: "):
        trpo_update(policy, batch)


@pytest.mark.parametrize("backend", ["reference", "autograd"])
def test_batch_norm_in_training_mode_is_refused_before_it_moves(backend):
    policy, obs = setup("categorical")
    policy.trunk[1] = nn.BatchNorm1d(6).double()
    batch = Batch(obs, policy(obs).sample(), torch.randn(21, dtype=torch.float64))
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    words = r"write no buffers.*BatchNorm.*policy\.eval\(\).*write to trunk\.1\."
    with pytest.raises(ValueError, match=f"policy: expected modules that {words}"):
        trpo_update(policy, batch, backend=backend)
    assert all(torch.equal(v, before[name]) for name, v in policy.state_dict().items())
    policy.eval()
    F = FisherOperator(policy, obs, backend=backend)
    v = torch.randn(F.shape[0], dtype=torch.float64)
    assert relative_error(F @ v, F.dense() @ v) < 1e-10
    assert trpo_update(policy, batch, backend=backend).accepted
    moved = {name for name, v in policy.state_dict().items() if not torch.equal(v, before[name])}
    assert moved == {name for name, _ in policy.named_parameters()}


class Steps(nn.GRU):
    """Two layers with dropout between them, over rows as if they were steps."""

    def __init__(self):
        super().__init__(6, 6, num_layers=2, dropout=0.5)

    def forward(self, value):
        return super().forward(value)[0]


@pytest.mark.parametrize("make", [lambda: nn.Dropout(0.2), nn.RReLU, Steps])
def test_modules_that_draw_random_numbers_are_refused_in_training_mode(make):
    policy, obs = setup("categorical")
    policy.trunk[2] = make().double()
    batch = Batch(obs, policy(obs).sample(), torch.randn(21, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"draw no random numbers.*policy\.eval\(\).* at trunk\.2"):
        trpo_update(policy, batch)
    assert trpo_update(policy.eval(), batch).accepted


@pytest.mark.parametrize("backend", ["reference", "autograd"])
@pytest.mark.parametrize("kind", ["custom", "MLPPolicy"])
def test_a_surrounding_autocast_changes_no_bit(kind, backend):
    results = []
    for lower in (False, True):
        torch.manual_seed(0)
        policy = Custom(DISTRIBUTIONS["normal"])
        if kind == "MLPPolicy":
            policy = MLPPolicy(4, Gaussian(2), (8,))
        obs, actions, advantages = torch.randn(33, 4), torch.randn(33, 2), torch.randn(33)
        batch, v = Batch(obs, actions, advantages), torch.randn(flat_params(policy).numel())
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            F = FisherOperator(policy, obs, backend=backend)
            found = [F @ v, F.solve(v).x, F.dense()]
            info = trpo_update(policy, batch, backend=backend)
            penalised = kl_penalty_update(policy, batch, Penalty(), inner="adam", backend=backend)
        results.append([*found, info.stats, penalised.stats, flat_params(policy).clone()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


class Halted(Custom):
    """Its trunk is run without gradients, though the parameters there ask for them."""

    def forward(self, obs):
        with torch.no_grad():
            features = self.trunk(obs)
        return Categorical(logits=self.out(features))


class Detached(Custom):
    def forward(self, obs):
        return Categorical(logits=self.out(self.trunk(obs).detach()))


def test_no_grad_in_a_forward_is_a_detach():
    torch.manual_seed(0)
    policy, other, obs = Halted(None), Detached(None), torch.randn(9, 4)
    other.load_state_dict(policy.state_dict())
    v = torch.randn(flat_params(policy).numel())
    expected = FisherOperator(policy, obs, backend="autograd") @ v
    for module in (policy, other):
        assert relative_error(FisherOperator(module, obs) @ v, expected) < FLOAT32_PRODUCT
    batch = Batch(obs, torch.zeros(9).long(), torch.randn(9))
    assert trpo_update(policy, batch).accepted and trpo_update(other, batch).accepted
    assert torch.equal(flat_params(policy), flat_params(other))


class Limited(Custom):
    """Its way back limits the gradients that it passes on, which is no linear map."""

    def forward(self, obs):
        features = self.trunk(obs)
        if features.requires_grad:
            features.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
        return Categorical(logits=self.out(features))


def test_a_way_back_that_is_not_the_transposed_derivative_is_refused():
    torch.manual_seed(0)
    F = FisherOperator(Limited(None), torch.randn(9, 4))
    with pytest.raises(ValueError, match="policy: expected modules whose way back is linear"):
        F @ torch.randn(F.shape[0])


class Dropping(Custom):
    def forward(self, obs):
        features = nn.functional.dropout(self.trunk(obs), 0.5, self.training)
        return Categorical(logits=self.out(features))


class Sampling(Custom):
    """Draws random numbers, on which nothing depends."""

    def forward(self, obs):
        distribution = Categorical(logits=self.out(self.trunk(obs)))
        self.last = distribution.sample()
        return distribution


def test_random_numbers_are_refused_where_distributions_depend_on_them():
    torch.manual_seed(0)
    policy, obs = Dropping(None), torch.randn(9, 4)
    batch = Batch(obs, torch.zeros(9).long(), torch.randn(9))
    words = r"draw no random numbers.*policy\.eval\(\).*other distributions at a second run"
    for backend in ("reference", "autograd"):
        with pytest.raises(ValueError, match=words):
            trpo_update(policy, batch, backend=backend)
        with pytest.raises(ValueError, match=words):
            FisherOperator(policy, obs, backend=backend, chunk_rows=None)
    assert trpo_update(policy.eval(), batch).accepted
    assert trpo_update(Sampling(None), batch).accepted
