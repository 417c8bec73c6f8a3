"""``fisher="empirical"`` for distributions that no head serves."""

from __future__ import annotations

import pytest
import torch
from exactness import relative_error
from head_cases import (
    a_batch,
    mixture,
    normal,
    of_parts,
    parts_of,
    setup,
    squashed,
    unregister_all,
)
from torch.distributions import (
    Distribution,
    Gamma,
    Independent,
    MixtureSameFamily,
    Normal,
    Poisson,
    kl_divergence,
    register_kl,
)

from trpo_fast import (
    Batch,
    FisherOperator,
    Penalty,
    distribution_params,
    flat_params,
    kl_penalty_update,
    npg_update,
    register_head,
    trpo_update,
    unregister_head,
)


@pytest.fixture(autouse=True)
def nothing_is_registered():
    unregister_all()
    yield
    unregister_all()


UNKNOWN = {
    "poisson": lambda z: Poisson(z.exp()),
    "gamma": lambda z: Independent(Gamma(z[:, :2].exp(), z[:, 2:].exp()), 1),
    "normal": normal,
    "squashed": squashed,
    "mixture": mixture,
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_the_empirical_matrix_needs_a_log_probability_alone(name):
    policy, obs = setup(UNKNOWN[name])
    actions = policy(obs).sample()
    rows = []
    for n in range(len(obs)):
        value = policy(obs).log_prob(actions)[n].sum()
        gradients = torch.autograd.grad(value, list(policy.parameters()))
        rows.append(torch.cat([g.reshape(-1) for g in gradients]))
    scores = torch.stack(rows)
    exact = scores.T @ scores / len(obs) + 0.1 * torch.eye(scores.shape[1]).to(scores)
    F = FisherOperator(policy, obs, fisher="empirical", actions=actions)
    v = torch.randn(exact.shape[0], 2, dtype=exact.dtype)
    assert relative_error(F @ v, exact @ v) < 1e-10
    assert relative_error(F.dense(), exact) < 1e-10
    g = torch.randn(exact.shape[0], dtype=exact.dtype)
    solved = F.solve(g, iterations=60, preconditioner="kfac").x
    assert relative_error(solved, torch.linalg.solve(exact, g)) < 1e-6


def penalised(policy, batch, **options):
    return kl_penalty_update(policy, batch, Penalty(2.0, rule="fixed"), **options)


def penalised_by_adam(policy, batch, **options):
    return kl_penalty_update(policy, batch, Penalty(2.0, rule="fixed"), inner="adam", **options)


@pytest.mark.parametrize("update", [trpo_update, npg_update, penalised, penalised_by_adam])
@pytest.mark.parametrize("name", ["poisson", "gamma", "normal", "squashed"])
def test_an_update_without_a_head_reports_torchs_kl(name, update):
    policy, obs = setup(UNKNOWN[name], rows=40)
    batch = a_batch(policy, obs)
    with torch.no_grad():
        old = policy(obs)
    info = update(policy, batch, fisher="empirical", chunk_rows=16)
    kl = kl_divergence(old, policy(obs)).sum() / len(obs)
    assert info.accepted and abs(info.kl - kl.item()) < 1e-9
    info = update(policy, batch, fisher="empirical", kl_direction="reverse")
    assert info.accepted and info.kl > 0


class Held:
    """Where a distribution may keep its tensors, out of sight."""

    def __init__(self, mean):
        self.mean = mean


class Unusual(Distribution):
    """Unit normals, with nothing that torch's distributions say of themselves."""

    def __init__(self, mean):
        self.held = Held(mean)
        super().__init__(mean.shape[:1], mean.shape[1:], validate_args=False)

    def sample(self, shape=()):
        mean = self.held.mean.detach()
        return mean + torch.randn(*shape, *mean.shape, dtype=mean.dtype)

    def log_prob(self, actions):
        return -0.5 * (actions - self.held.mean).square().sum(-1)


@register_kl(Unusual, Unusual)
def kl_of_unusual(old, new):
    return 0.5 * (old.held.mean - new.held.mean).square().sum(-1)


def test_a_class_that_shows_no_parameters_has_an_empirical_matrix():
    """As that of the same normals, whose parameters are known."""
    unusual, obs = setup(Unusual)
    known, _ = setup(lambda z: Independent(Normal(z, torch.ones_like(z)), 1))
    actions = unusual(obs).sample()
    batch = Batch(obs, actions, torch.randn(13, dtype=torch.float64))
    infos = [trpo_update(p, batch, fisher="empirical") for p in (unusual, known)]
    assert infos[0].accepted and abs(infos[0].kl - infos[1].kl) < 1e-12
    assert relative_error(flat_params(unusual), flat_params(known)) < 1e-10
    register_head(Unusual, params=lambda d: [d.held.mean], distribution=Unusual)
    try:
        infos = [trpo_update(p, batch, max_kl=0.02) for p in (unusual, known)]
        assert infos[0].accepted and abs(infos[0].kl - infos[1].kl) < 1e-10
        assert relative_error(flat_params(unusual), flat_params(known)) < 1e-9
    finally:
        unregister_head(Unusual)


def test_what_cannot_be_is_refused_in_a_sentence():
    policy, obs = setup("mixture")
    batch = a_batch(policy, obs)
    words = r"policy: expected a module that returns .*register_head.*MixtureSameFamily"
    with pytest.raises(ValueError, match=words):
        trpo_update(policy, batch)
    with pytest.raises(ValueError, match=words):
        distribution_params(policy, obs)
    no_kl = r"policy: expected a MixtureSameFamily with a KL.*kl=.*, got one without"
    with pytest.raises(ValueError, match=no_kl):
        trpo_update(policy, batch, fisher="empirical")
    register_head(MixtureSameFamily, params=parts_of, distribution=of_parts)
    for fisher in ("analytic", "empirical"):
        with pytest.raises(ValueError, match=no_kl):
            trpo_update(policy, batch, fisher=fisher)
    poisson, _ = setup(UNKNOWN["poisson"])
    old = Batch(obs, torch.ones(13, 4).double(), batch.advantages, old_params=batch.actions)
    with pytest.raises(ValueError, match="old_params: expected None for a distribution without"):
        trpo_update(poisson, old, fisher="empirical")
