"""Distributions of one's own: ``register_head``."""

from __future__ import annotations

import pytest
import torch
from exactness import relative_error
from head_cases import (
    MAKERS,
    a_batch,
    register,
    setup,
    unregister_all,
)
from torch import nn
from torch.distributions import (
    Gamma,
    Independent,
    Normal,
    Poisson,
    kl_divergence,
)

from trpo_fast import (
    Batch,
    FisherOperator,
    distribution_params,
    flat_params,
    register_head,
    trpo_update,
    unregister_head,
)
from trpo_fast.core.modules import functional_params
from trpo_fast.core.oracle import metric_matrix


@pytest.fixture(autouse=True)
def nothing_is_registered():
    unregister_all()
    yield
    unregister_all()


def with_parameters(policy, theta, obs):
    sizes = [p.numel() for p in policy.parameters()]
    names = [name for name, _ in policy.named_parameters()]
    pairs = zip(names, policy.parameters(), theta.split(sizes), strict=True)
    return torch.func.functional_call(policy, {n: t.view(p.shape) for n, p, t in pairs}, (obs,))


@pytest.mark.parametrize("backend", ["reference", "autograd"])
@pytest.mark.parametrize("name", ["normal", "squashed"])
def test_the_product_is_the_hessian_of_torchs_kl(name, backend):
    register(name)
    policy, obs = setup(name)
    old = policy(obs)
    theta = flat_params(policy).clone()

    def kl(new):
        return kl_divergence(old, with_parameters(policy, new, obs)).mean()

    with torch.no_grad():
        old = policy(obs)
    hessian = torch.autograd.functional.hessian(kl, theta)
    F = FisherOperator(policy, obs, damping=0.0, backend=backend)
    v = torch.randn(len(theta), 2, dtype=theta.dtype)
    assert relative_error(F @ v, hessian @ v) < 1e-10
    assert relative_error(F.dense(), hessian) < 1e-10


def test_a_sampled_kl_has_the_empirical_metric_of_its_samples():
    register("mixture")
    policy, obs = setup("mixture")
    head, params = functional_params(policy, Batch(obs))(flat_params(policy))
    actions = head._drawn(params)
    scores = torch.stack([head.score(params, a) for a in actions])
    expected = torch.einsum("kni,knj->nij", scores, scores) / len(actions)
    assert relative_error(metric_matrix(head, params), expected) < 1e-10
    tangent = torch.randn(2, *params.shape, dtype=params.dtype)
    exact = torch.einsum("nij,knj->kni", expected, tangent)
    assert relative_error(head.metric(params, tangent), exact) < 1e-10


def test_a_sampled_kl_estimates_the_kl_and_draws_nothing_that_is_seen():
    register("normal", kl="sampled", samples=100_000)
    policy, obs = setup("normal", rows=3)
    head, old = functional_params(policy, Batch(obs))(flat_params(policy))
    new = old + 0.1 * torch.randn(old.shape[-1], dtype=old.dtype) * (old != 0)
    state = torch.get_rng_state()
    found = head.kl(old, new)
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(found, head.kl(old, new))
    exact = kl_divergence(head.distribution(old), head.distribution(new))
    assert relative_error(found, exact) < 0.05
    assert head.kl(old, old).abs().max() == 0


@pytest.mark.parametrize("preconditioner", [None, "kfac"])
@pytest.mark.parametrize("fisher", ["analytic", "empirical"])
@pytest.mark.parametrize("name", MAKERS)
def test_an_update_improves_within_its_limit(name, fisher, preconditioner):
    register(name)
    policy, obs = setup(name, rows=40)
    batch = a_batch(policy, obs)
    with torch.no_grad():
        old = policy(obs)
    info = trpo_update(policy, batch, fisher=fisher, preconditioner=preconditioner)
    assert info.accepted and 0 < info.kl <= 0.01 and info.restarts == 0
    new = policy(obs)
    ratio = (new.log_prob(batch.actions) - old.log_prob(batch.actions)).exp()
    assert abs((ratio * batch.advantages).mean().item() - info.surrogate_after) < 1e-9
    if name != "mixture":
        assert abs(kl_divergence(old, new).mean().item() - info.kl) < 1e-9
    assert (info.entropy == info.entropy) == (name != "squashed")


@pytest.mark.parametrize(
    "options", [{}, {"preconditioner": "kfac"}, {"fisher": "empirical"}], ids=str
)
@pytest.mark.parametrize("name", MAKERS)
def test_inference_mode_changes_nothing(name, options):
    register(name)
    moved = []
    for mode in (torch.no_grad, torch.inference_mode):
        policy, obs = setup(name)
        batch = a_batch(policy, obs)
        with mode():
            made = Batch(*(t.clone() for t in (obs, batch.actions, batch.advantages)))
            assert trpo_update(policy, made, **options).accepted
        moved.append(flat_params(policy).clone())
    assert torch.equal(*moved)


@pytest.mark.parametrize("name", MAKERS)
def test_roots_of_a_metric_have_it_as_their_mean_product(name):
    register(name)
    policy, obs = setup(name, rows=5)
    head, params = functional_params(policy, Batch(obs))(flat_params(policy))
    columns = [head.metric_root(params, e.expand_as(params)) for e in torch.eye(params.shape[-1])]
    root = torch.stack(columns, -1)
    assert relative_error(root @ root.mT, metric_matrix(head, params)) < 1e-8


def closed_forms():
    def metric(d, loc, scale):
        return loc / d.scale**2, 2.0 * scale / d.scale**2

    def root(d, loc, scale):
        return loc / d.scale, 2.0**0.5 * scale / d.scale

    def score(d, actions):
        standard = (actions - d.loc) / d.scale
        return standard / d.scale, (standard**2 - 1.0) / d.scale

    return {"metric": metric, "metric_root": root, "score": score}


class Own(Normal):
    """A class of one's own, which a stock head would take otherwise."""


def test_closed_forms_are_used_and_agree_with_autograds():
    moved, kfac = [], {"preconditioner": "kfac", "cg_iterations": 3}
    try:
        for forms in ({}, closed_forms()):
            register_head(Own, params=("loc", "scale"), **forms)
            policy, obs = setup(lambda z: Own(z[:, :2], z[:, 2:].exp()))
            torch.manual_seed(1)
            batch = a_batch(policy, obs)
            assert trpo_update(policy, batch, **kfac).accepted
            moved.append(flat_params(policy).clone())
        unregister_head(Own)
        policy, _ = setup(lambda z: Own(z[:, :2], z[:, 2:].exp()))
        assert trpo_update(policy, batch, **kfac).accepted
    finally:
        unregister_head(Own)
    assert relative_error(moved[1], moved[0]) < 1e-9
    assert relative_error(flat_params(policy), moved[0]) < 1e-9  # in log_std instead of std


def test_formulas_of_ones_own_are_asked():
    asked = []

    def told(name, value):
        def formula(*arguments):
            asked.append(name)
            return value(*arguments)

        return formula

    register_head(
        Gamma,
        params=("concentration", "rate"),
        kl=told("kl", lambda old, new: kl_divergence(old, new)),
        log_prob=told("log_prob", lambda d, a: d.log_prob(a)),
        entropy=told("entropy", lambda d: d.entropy() + 7.0),
        sample=told("sample", lambda d, shape: d.sample(shape)),
    )
    policy, obs = setup(lambda z: Gamma(z[:, :2].exp(), z[:, 2:].exp()))
    info = trpo_update(policy, batch := a_batch(policy, obs))
    assert info.accepted and set(asked) == {"kl", "log_prob", "entropy"}
    exact = policy(obs).entropy().sum(-1).mean().item() + 14.0
    assert abs(info.entropy - exact) < 1e-9
    head, params = functional_params(policy, batch)(flat_params(policy))
    drawn = [head.sample(params, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert "sample" in asked and torch.equal(*drawn) and drawn[0].shape == (13, 2)
    assert head.sample(params).shape == (13, 2)


def test_chunks_and_several_updates_on_one_batch():
    register("normal")
    policy, obs = setup("normal")
    batch = a_batch(policy, obs)
    v = torch.randn(flat_params(policy).numel(), dtype=torch.float64)
    whole, pieces = FisherOperator(policy, obs), FisherOperator(policy, obs, chunk_rows=4)
    assert relative_error(pieces @ v, whole @ v) < 1e-12
    sampled = distribution_params(policy, obs)
    again = Batch(obs, batch.actions, batch.advantages, old_params=sampled)
    for limit in (0.0025, 0.01):
        info = trpo_update(policy, again, max_kl=limit)
        assert info.accepted and info.kl <= limit
    assert info.kl_from == "sampler"


@pytest.mark.parametrize("name", ["normal", "mixture"])
def test_bad_values_are_named_whatever_a_distribution_checks(name):
    register(name)
    policy, obs = setup(name)
    batch = a_batch(policy, obs)
    before = flat_params(policy).clone()
    actions = batch.actions.clone()
    actions[3, 1] = float("nan")
    with pytest.raises(ValueError, match=r"actions: expected finite values, got nan at index \[3"):
        trpo_update(policy, Batch(obs, actions, batch.advantages))
    spoiled = obs.clone()
    spoiled[2, 0] = float("inf")
    with pytest.raises(ValueError, match=r"obs: expected finite values"):
        trpo_update(policy, Batch(spoiled, batch.actions, batch.advantages))
    assert torch.equal(flat_params(policy), before)


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (nn.Linear, {"params": ("loc",)}, "kind: expected a subclass of torch.distributions"),
        (Gamma, {"params": "rate"}, r"params: expected a function of a distribution, or names"),
        (Gamma, {"params": ()}, r"params: expected .*, got \(\)"),
        (Gamma, {"params": lambda d: [d.rate]}, "distribution: expected a function of the tensors"),
        (Gamma, {"params": ("rate",), "kl": "monte_carlo"}, "kl: expected a function of two"),
        (Gamma, {"params": ("rate",), "metric": 3}, "metric: expected a function or None, got 3"),
        (Gamma, {"params": ("rate",), "samples": 0}, "samples: expected an integer of at least 1"),
    ],
)
def test_mistakes_at_registering_are_named(kind, arguments, words):
    with pytest.raises(ValueError, match=words):
        register_head(kind, **arguments)


def test_parameters_without_rows_are_named():
    register_head(Gamma, params=lambda d: [d.rate.sum()], distribution=lambda rate: Gamma(1, rate))
    policy, obs = setup(lambda z: Gamma(z[:, :2].exp(), z[:, 2:].exp()))
    with pytest.raises(ValueError, match=r"params: expected tensors \[13, ...\] of a Gamma"):
        FisherOperator(policy, obs)
    lone, _ = setup(lambda z: Independent(Poisson(z.exp()), 2))
    with pytest.raises(ValueError, match=r"policy: expected a distribution over N rows"):
        FisherOperator(lone, obs)
