"""Steps of ``NaturalGradient`` that are recorded and replayed on what their functions then hold, by
the stand-in of tests/support/host_recorder.py; what is not recorded; and that nothing waits.
"""

from __future__ import annotations

import copy
import functools
import re
import warnings
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from host_recorder import recording  # noqa: F401
from loop_cases import Plain
from no_waits import without_waits
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from trpo_fast import Gaussian, MLPPolicy, NaturalGradient, flat_params
from trpo_fast.backends import captured

FEW = {"cg_iterations": 3, "backtrack_steps": 4}


@pytest.fixture(autouse=True)
def recorded(recording):  # noqa: F811
    yield recording


class Pair(nn.Module):
    """Two inputs, one of them in a dict."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(2, 6)
        self.out = nn.Linear(6, 4)

    def forward(self, obs, more):
        mean, log_std = self.out(torch.tanh(self.first(obs) + self.second(more["goal"]))).chunk(
            2, -1
        )
        return Independent(Normal(mean, log_std.exp()), 1)


@dataclass
class Rows:
    actions: torch.Tensor
    advantages: torch.Tensor


HELD = None  # a global of the losses below


def wide():
    return MLPPolicy(4, Gaussian(2), hidden=(140,), dtype=torch.float64)


def fresh(module, i):
    """Inputs, actions and advantages of the i-th batch."""
    torch.manual_seed(100 + i)
    obs = torch.randn(30, 4, dtype=torch.float64)
    more = {"goal": torch.randn(30, 2, dtype=torch.float64)}
    inputs = (obs, more) if isinstance(module, Pair) else (obs,)
    with torch.no_grad():
        actions = module(*inputs).sample()
    return inputs, actions, torch.randn(30, dtype=torch.float64)


def by_closure(module, inputs, actions, advantages):
    return (lambda pi: -(pi.log_prob(actions) * advantages).mean(), *inputs)


def by_partial(module, inputs, actions, advantages):
    def loss(rows, scale, pi, *, extra=(0.5, None)):
        return -(pi.log_prob(rows["actions"]) * rows["advantages"][0]).mean() * scale * extra[0]

    return (functools.partial(loss, {"actions": actions, "advantages": [advantages]}, 2.0), *inputs)


def by_global(module, inputs, actions, advantages):
    global HELD
    HELD = Rows(actions, advantages)
    return (lambda pi: -(pi.log_prob(HELD.actions) * HELD.advantages).mean(), *inputs)


def by_helper(module, inputs, actions, advantages):
    def ratio(pi):
        return (pi.log_prob(actions) - old).exp()

    with torch.no_grad():
        old = module(*inputs).log_prob(actions)
    return (lambda pi: -(ratio(pi) * advantages).mean(), *inputs)


def by_kl(module, inputs, actions, advantages):
    with torch.no_grad():
        old = module(*inputs)
    loss = lambda: -(module(*inputs).log_prob(actions) * advantages).mean()  # noqa: E731
    return loss, lambda: kl_divergence(old, module(*inputs)).mean()


def by_distribution(module, inputs, actions, advantages):
    loss = lambda: -(module(*inputs).log_prob(actions) * advantages).mean()  # noqa: E731
    return loss, lambda: module(*inputs)


FORMS = [by_closure, by_partial, by_global, by_helper, by_kl, by_distribution]


def run(make, form, times=4, **options):
    """Which of several steps on fresh rows were replays; each does what one of a copy does."""
    torch.manual_seed(0)
    module = make().double()
    other, seen = copy.deepcopy(module), []
    ours = NaturalGradient(module, **(FEW | options))
    theirs = NaturalGradient(other, capture=False, **(FEW | options))
    for i in range(times):
        rows = fresh(module, i)
        for each in (ours, theirs):
            each.param_groups[0]["max_kl"] = 0.01 * 2.0**-i
        info = ours.step(*form(module, *rows))
        usual = theirs.step(*form(other, *rows))
        assert not usual.captured and info.reason == usual.reason == "accepted"
        for name, value in info.as_dict().items():
            wanted = usual.as_dict()[name]
            assert value == wanted or value == pytest.approx(wanted, rel=1e-7, abs=1e-9), name
        torch.testing.assert_close(flat_params(module), flat_params(other), rtol=1e-7, atol=1e-9)
        seen.append(info.captured)
    return seen


@pytest.mark.parametrize(
    ("make", "form"),
    [(Plain, form) for form in FORMS if form is not by_kl] + [(Pair, by_helper), (Pair, by_kl)],
    ids=lambda given: given.__name__,
)
def test_the_third_step_and_later_ones_are_replays(make, form):
    assert run(make, form) == [False, False, True, True]


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (wide, {"backend": "reference"}),
        (wide, {"backend": "autograd"}),
        (Plain, {"preconditioner": "kfac", "fvp_rows": 20}),
        (Plain, {"cg_gain_tol": 0.2, "cg_tol": 0.3}),
    ],
)
def test_so_are_those_with_options(make, options):
    assert run(make, by_closure, 3, **options) == [False, False, True]


def test_so_are_solves_and_searches():
    torch.manual_seed(0)
    module = Plain().double()
    other = copy.deepcopy(module)
    seen = []
    for i in range(4):
        rows, found = fresh(module, i), []
        for net, capture in ((module, True), (other, False)):
            optimizer = NaturalGradient(net, capture=capture, **FEW)
            loss, obs = by_closure(net, *rows)
            losses = [loss, lambda pi: pi.entropy().mean()]
            pair = optimizer.solve(losses, obs)
            accept = lambda new, was=pair.losses: (new < was + 1.0).all()  # noqa: E731
            info = optimizer.search(-pair.x[:, 0], losses, accept, obs)
            found.append((pair, info))
        for name in ("losses", "gradients", "x"):
            torch.testing.assert_close(getattr(found[0][0], name), getattr(found[1][0], name))
        assert found[0][1].reason == found[1][1].reason
        torch.testing.assert_close(flat_params(module), flat_params(other))
        seen.append(found[0][1].captured)
    assert seen == [False, False, True, True]


def test_a_number_that_a_loss_holds_makes_another_recording():
    module = Plain().double()
    optimizer = NaturalGradient(module, **FEW)

    def stepped(scale, i):
        inputs, actions, advantages = fresh(module, i)
        loss = lambda pi: -scale * (pi.log_prob(actions) * advantages).mean()  # noqa: E731
        return optimizer.step(loss, *inputs)

    assert [stepped(1.0, i).captured for i in range(3)] == [False, False, True]
    assert not stepped(2.0, 3).captured and stepped(1.0, 4).captured
    module.layers[1] = nn.ReLU()
    assert not stepped(1.0, 5).captured


class Trainer:
    def __init__(self, actions):
        self.actions = actions

    def loss(self, pi):
        return -pi.log_prob(self.actions).mean()


TABLE = SimpleNamespace(scale=2.0)


class Table:
    rows = torch.ones(30, dtype=torch.float64)


def method(actions):
    return Trainer(actions).loss


def attribute(actions):
    return lambda pi: -(pi.log_prob(actions) * Table.rows).mean()


def branches(actions):
    return lambda pi: -pi.log_prob(actions).mean() * (1.0 if float(pi.probs.sum()) > 0 else 2.0)


def draws(actions):
    return lambda pi: -(pi.log_prob(actions) + 0.0 * torch.rand(30)).mean()


def validates(actions):
    kind = torch.distributions.Categorical
    return lambda pi: -kind(logits=pi.logits, validate_args=True).log_prob(actions).mean()


REFUSED = {
    method: "its functions hold a Trainer, which is not looked into",
    attribute: r"a tensor \[30\] is read that neither the arguments nor the closures hold",
    branches: r"the host waits for .* \(.*test_recorded_steps.py",
    draws: r"random numbers are drawn by rand \(.*test_recorded_steps.py",
    validates: "the host waits for",
}


@pytest.mark.parametrize("loss", REFUSED, ids=lambda loss: loss.__name__)
def test_what_cannot_be_recorded_runs_as_it_is_and_one_warning_says_why(loss):
    module = Plain().double()
    other = copy.deepcopy(module)
    ours, theirs = (NaturalGradient(m, capture=m is module, **FEW) for m in (module, other))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for i in range(4):
            inputs, actions, _ = fresh(module, i)
            assert not ours.step(loss(actions), *inputs).captured
            theirs.step(loss(actions), *inputs)
    torch.testing.assert_close(flat_params(module), flat_params(other))
    (words,) = [str(w.message) for w in told if "capture" in str(w.message)]
    assert words.startswith("capture: NaturalGradient.step runs operator by operator")
    assert re.search(REFUSED[loss], words), words


def test_a_preconditioner_of_the_callers_is_none():
    module = Plain().double()
    optimizer = NaturalGradient(module, preconditioner=torch.clone, **FEW)
    with pytest.warns(UserWarning, match="its preconditioner is a function of the caller's"):
        assert not optimizer.step(*by_closure(module, *fresh(module, 0))).captured
    assert captured.captured_graphs().graphs == 0


@pytest.mark.parametrize(
    ("make", "form"),
    [(Plain, by_closure), (wide, by_closure), (Pair, by_kl), (wide, by_distribution)],
    ids=lambda given: given.__name__,
)
def test_a_step_waits_for_nothing(make, form):
    torch.manual_seed(0)
    module = make().double()
    other, rows = copy.deepcopy(module), fresh(module, 0)
    options = FEW | {"capture": False, "backend": "reference"}
    ours, theirs = (NaturalGradient(m, **options) for m in (module, other))
    given = form(module, *rows)
    info = without_waits(lambda: ours.step(*given))
    usual = theirs.step(*form(other, *rows))
    assert info.reason == usual.reason == "accepted"
    assert info.kl == pytest.approx(usual.kl, rel=1e-7) and info.backtracks == usual.backtracks
    torch.testing.assert_close(flat_params(module), flat_params(other))
    (loss, *rest), (same, *others) = form(module, *rows), form(other, *rows)
    pair = without_waits(lambda: ours.solve([loss], *rest))
    torch.testing.assert_close(pair.x, theirs.solve([same], *others).x)


@pytest.mark.parametrize("scale", [0.0, float("inf"), 1e-3])
def test_a_replay_ends_where_the_step_would(scale):
    """No gradient, none that is finite, and after these an ordinary one."""
    module = Plain().double()
    optimizer = NaturalGradient(module, **FEW)
    for i in range(2):
        optimizer.step(*by_closure(module, *fresh(module, i)))
    before = flat_params(module).clone()
    inputs, actions, advantages = fresh(module, 3)
    info = optimizer.step(*by_closure(module, inputs, actions, scale * advantages))
    reasons = {0.0: "zero_gradient", 1e-3: "accepted"}
    assert info.captured and info.reason == reasons.get(scale, "non_finite")
    assert torch.equal(flat_params(module), before) == (not info.accepted)
    assert info.step_size == info.kl == 0.0 or info.accepted
