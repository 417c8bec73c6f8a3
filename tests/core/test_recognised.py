"""Modules that are nets the CPU kernels know: found by what ran, and never mistaken."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from exactness import FLOAT32_PRODUCT, relative_error
from torch import nn
from torch.distributions import Bernoulli, Categorical, Independent, Normal

from trpo_fast import (
    Batch,
    FisherOperator,
    NaturalGradient,
    SquashedGaussian,
    flat_params,
    trpo_update,
)
from trpo_fast.backends.registry import registry
from trpo_fast.policy.distributions import MultiCategoricalDistribution

pytestmark = pytest.mark.skipif(
    not registry()["cpu"].machine_support(), reason="the CPU kernels are not built"
)


class Net(nn.Module):
    """A net of two hidden layers, and what a test makes of its outputs."""

    def __init__(self, make, outputs=2, activation=nn.Tanh):
        super().__init__()
        self.log_std = nn.Parameter(torch.full((2,), -0.5))  # before the net's parameters
        self.net = nn.Sequential(
            nn.Linear(4, 8), activation(), nn.Linear(8, 6), activation(), nn.Linear(6, outputs)
        )
        self.spread = None
        if make in (of_two_maps, crossed, one_scale, one_mean):
            self.spread = nn.Linear(6, 2 if make in (of_two_maps, crossed) else 1)
        self.make = make

    def forward(self, obs):
        return self.make(self, obs)


def normal(m, obs):
    return Normal(m.net(obs), m.log_std.exp())


def of_state(m, obs):
    mean, log_std = m.net(obs).chunk(2, dim=-1)
    return Normal(mean, log_std.clamp(-20, 2).exp())


def with_value(m, obs):
    features = m.net[:4](obs)
    return Normal(m.net[4](features), m.log_std.exp()), features.sum(-1)


def of_two_maps(m, obs):
    features = m.net[:4](obs)
    return Normal(m.net[4](features), m.spread(features).clamp(-20, 2).exp())


def crossed(m, obs):
    features = m.net[:4](obs)
    return Normal(m.net[4](features), m.spread(2.0 * features).exp())


KNOWN = {
    "normal": (normal, 2),
    "independent": (lambda m, o: Independent(Normal(m.net(o), m.log_std.exp().expand(9, 2)), 1), 2),
    "clamped": (lambda m, o: Normal(m.net(o), m.log_std.clamp(-20, 2).exp()), 2),
    "of the state": (of_state, 4),
    "of two maps": (of_two_maps, 2),
    "squashed": (lambda m, o: SquashedGaussian(2, "state").distribution(m.net(o)), 4),
    "categorical": (lambda m, o: Categorical(logits=m.net(o)), 3),
    "bernoulli": (lambda m, o: Independent(Bernoulli(logits=m.net(o)), 1), 3),
    "multicategorical": (lambda m, o: MultiCategoricalDistribution(m.net(o), (1, 2)), 3),
    "scaled rows": (lambda m, o: normal(m, 0.1 * o.flatten(1)), 2),
    "with a value": (with_value, 2),
    "functional": (lambda m, o: normal(m, F.normalize(o)), 2),
    "without log_std": (lambda m, o: Categorical(logits=m.net(o)), 2),
}


def policy_and_rows(make, outputs=2, activation=nn.Tanh):
    torch.manual_seed(0)
    return Net(make, outputs, activation), torch.randn(9, 4)


def check_products(policy, obs, backend, **options):
    """Products, and a solve, against the module in float64."""
    operator = FisherOperator(policy, obs, **options)
    assert operator.backend == backend
    double = copy.deepcopy(policy).double()
    options = {k: v.double() if k == "weights" else v for k, v in options.items()}
    exact = FisherOperator(double, obs.double(), **options)
    v = torch.randn(operator.shape[0], 2)
    assert relative_error((operator @ v).double(), exact @ v.double()) < FLOAT32_PRODUCT
    found, expected = operator.solve(v, 20).x, exact.solve(v.double(), 20).x
    assert relative_error(found.double(), expected) < 1e-4
    return operator


@pytest.mark.parametrize("name", KNOWN)
def test_nets_are_found(name):
    policy, obs = policy_and_rows(*KNOWN[name])
    operator = check_products(policy, obs, "cpu")
    assert operator.scratch_bytes > 0


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Identity])
def test_activations(activation):
    check_products(*policy_and_rows(normal, 2, activation), "cpu")


@pytest.mark.parametrize("fvp_rows", [None, 5])
def test_weights_and_chosen_rows(fvp_rows):
    policy, obs = policy_and_rows(normal)
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.5, 0.0, 1.0, 3.0, 1.0])
    check_products(policy, obs, "cpu", weights=weights, fvp_rows=fvp_rows)


def doubled(m, obs):
    m.net[1].register_forward_hook(lambda layer, given, out: 2.0 * out)
    return normal(m, obs)


def hooked(m, obs):
    mean = m.net(obs)
    if mean.requires_grad:
        mean.register_hook(lambda gradient: 0.5 * gradient)
    return Normal(mean, m.log_std.exp())


def written(m, obs):
    mean = m.net(obs)
    mean.data += 1.0
    return Normal(mean, m.log_std.exp())


def normalised(m, obs):
    z = m.net(obs)
    return Categorical(logits=z - z.mean(-1, keepdim=True))


def one_scale(m, obs):
    features = m.net[:4](obs)
    return Normal(m.net[4](features), m.spread(features).exp())


def one_mean(m, obs):
    features = m.net[:4](obs)
    return Normal(m.spread(features), m.net[4](features).exp())


UNKNOWN = {
    "one scale for all": (one_scale, 2),
    "one mean for all": (one_mean, 3),
    "one log_std for all": (lambda m, o: Normal(m.net(o), m.log_std[:1].exp()), 2),
    "added": (lambda m, o: Normal(m.net(o) + o[:, :2], m.log_std.exp()), 2),
    "added twice": (lambda m, o: Normal(m.net(o) + 0.1 * m.net(o).detach(), m.log_std.exp()), 2),
    "a constant added": (lambda m, o: Normal(m.net(o) + 1e-3, m.log_std.exp()), 2),
    "scaled": (lambda m, o: Normal(1.001 * m.net(o), m.log_std.exp()), 2),
    "the scale scaled": (lambda m, o: Normal(m.net(o), 2.0 * m.log_std.exp()), 2),
    "log_std scaled": (lambda m, o: Normal(m.net(o), (1.5 * m.log_std).exp()), 2),
    "log_std clamped": (lambda m, o: Normal(m.net(o), m.log_std.clamp(-0.4, 2).exp()), 2),
    "softplus": (lambda m, o: Normal(m.net(o), F.softplus(m.log_std)), 2),
    "the mean clamped": (lambda m, o: Normal(m.net(o).clamp(-0.1, 0.1), m.log_std.exp()), 2),
    "the mean squashed": (lambda m, o: Normal(torch.tanh(m.net(o)), m.log_std.exp()), 2),
    "residual": (lambda m, o: Normal(m.net[4](m.net[2](m.net[:2](o)) + o[:, :1]), 1.0), 2),
    "two maps of two things": (crossed, 2),
    "temperature": (lambda m, o: Categorical(logits=m.net(o) / 0.9), 3),
    "shifted logits": (normalised, 3),
    "turned": (lambda m, o: Normal(m.net(o).flip(-1), m.log_std.exp()), 2),
    "turned by a view": (lambda m, o: Normal(m.net(o).view(2, 9).T, m.log_std.exp()), 2),
    "a forward hook": (doubled, 2),
    "a hook on a gradient": (hooked, 2),
    "written past autograd": (written, 2),
    "two halves the other way": (lambda m, o: Normal(m.net(o)[:, 2:], m.net(o)[:, :2].exp()), 4),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_departs_is_not_mistaken(name):
    policy, obs = policy_and_rows(*UNKNOWN[name])
    operator = FisherOperator(policy, obs)
    assert operator.backend == "reference"
    plain = FisherOperator(policy, obs, backend="autograd")
    v = torch.randn(operator.shape[0])
    assert relative_error((operator @ v).double(), (plain @ v).double()) < FLOAT32_PRODUCT


FORBIDDEN = torch.rand(9, 3, generator=torch.Generator().manual_seed(1)) < 0.3
FORBIDDEN[:, 1] = False
MASKS = {
    "where": lambda z, allowed: torch.where(allowed, z, -1e30),
    "where not": lambda z, allowed: torch.where(~allowed, torch.tensor(-1e9), z),
    "filled": lambda z, allowed: z.masked_fill(~allowed, -torch.inf),
}


@pytest.mark.parametrize("name", MASKS)
def test_masked_logits(name):
    def given(m, obs, mask):
        return Categorical(logits=MASKS[name](m.net(obs), mask))

    policy, obs = policy_and_rows(lambda m, o: given(m, o, ~FORBIDDEN), 3)
    check_products(policy, obs, "cpu")
    policy = Given(given, 3)
    check_products(policy, obs, "cpu", action_mask=~FORBIDDEN)


class Given(Net):
    def forward(self, obs, mask):
        return self.make(self, obs, mask)


def replaced_by_values(m, obs):
    z = m.net(obs)
    return Categorical(logits=torch.where(FORBIDDEN, z.flip(-1), z))


@pytest.mark.parametrize(
    "make",
    [
        lambda m, o: Categorical(logits=m.net(o).masked_fill(FORBIDDEN, -9.0)),
        lambda m, o: Categorical(logits=torch.where(FORBIDDEN, m.net(o).detach() - 90.0, m.net(o))),
        replaced_by_values,
    ],
)
def test_what_is_only_less_likely_is_no_mask(make):
    policy, obs = policy_and_rows(make, 3)
    assert FisherOperator(policy, obs).backend == "reference"


TIED = nn.Linear(5, 5)


class Layers(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, obs):
        return Categorical(logits=self.layers(obs))


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3)),
        (nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)),
        (nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)),
        (nn.Linear(4, 5), nn.Tanh(), nn.Tanh(), nn.Linear(5, 3)),
        (nn.Linear(4, 5), nn.ELU(0.5), nn.Linear(5, 3)),
        (nn.Linear(4, 5), nn.GELU("tanh"), nn.Linear(5, 3)),
        (nn.Linear(4, 5), nn.Softplus(), nn.Linear(5, 3)),
        (nn.Linear(4, 3), nn.Tanh()),
        (nn.Linear(4, 5), nn.Tanh(), TIED, nn.Tanh(), TIED, nn.Tanh(), nn.Linear(5, 3)),
    ],
)
def test_other_layers_are_no_net(layers):
    torch.manual_seed(0)
    assert FisherOperator(Layers(*layers), torch.randn(9, 4)).backend == "reference"


def test_frozen_layers_leave_a_shorter_net():
    policy, obs = policy_and_rows(normal)
    policy.net[0].requires_grad_(False)
    check_products(policy, obs, "cpu")
    policy.net[4].requires_grad_(False)
    assert FisherOperator(policy, obs).backend == "reference"


def test_who_is_asked_by_name_answers():
    policy, obs = policy_and_rows(normal)
    for backend in ("reference", "autograd"):
        assert FisherOperator(policy, obs, backend=backend).backend == backend
    assert FisherOperator(policy, obs, chunk_rows=4).backend == "reference"
    assert FisherOperator(policy.double(), obs.double()).backend == "reference"


class Branching(Net):
    """Is a net only as long as a number of its parameters is small."""

    def forward(self, obs):
        found = normal(self, obs)
        if float(self.log_std.detach().abs().max()) <= 0.5:
            return found
        return Normal(found.loc + 10.0, found.scale)


def test_an_update_searches_with_the_module_itself():
    torch.manual_seed(0)
    policy, obs = Branching(normal), torch.randn(64, 4)
    batch = Batch(obs, policy(obs).sample(), torch.randn(64))
    other = copy.deepcopy(policy)
    infos = [trpo_update(policy, batch), trpo_update(other, batch, backend="reference")]
    assert [info.backend for info in infos] == ["cpu", "reference"]
    assert infos[0].backtracks == infos[1].backtracks > 0
    torch.testing.assert_close(flat_params(policy), flat_params(other))


@pytest.mark.parametrize("preconditioner", [None, "kfac", lambda r: 0.5 * r])
@pytest.mark.parametrize("name", ["normal", "with a value"])
def test_updates_and_preconditioners_agree_with_the_reference(name, preconditioner):
    torch.manual_seed(0)
    policy, obs = Net(*KNOWN[name]), torch.randn(64, 4)
    double = copy.deepcopy(policy).double()
    batch = Batch(obs, torch.randn(64, 2), torch.randn(64))
    start = flat_params(policy).double()
    found = trpo_update(policy, batch, preconditioner=preconditioner)
    exact = Batch(obs.double(), batch.actions.double(), batch.advantages.double())
    expected = trpo_update(double, exact, preconditioner=preconditioner)
    assert (found.backend, found.reason) == ("cpu", expected.reason)
    # K-FAC's pairs are the same, log_std's scale is another estimate.
    limit = 0.05 if preconditioner == "kfac" else 0.005
    assert relative_error(flat_params(policy) - start, flat_params(double) - start) < limit


def test_a_loop_of_ones_own_uses_them():
    policy, obs = policy_and_rows(normal)
    info = NaturalGradient(policy).step(lambda found: found.loc.square().mean(), obs)
    assert info.accepted and info.backend == "cpu"


def test_bad_rows_stay_bad():
    policy, obs = policy_and_rows(normal)
    obs[3, 1] = float("nan")
    batch = Batch(obs, torch.zeros(9, 2), torch.randn(9))
    with pytest.raises(ValueError, match=r"obs: expected finite values, got nan at index \[3, 1\]"):
        trpo_update(policy, batch)
    assert trpo_update(policy, batch, sync=False).reason == "bad_values"
