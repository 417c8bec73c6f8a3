"""The updates in the place of tianshou's: equal parameters, statistics and critics."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("tianshou")

from tianshou.algorithm import NPG as TheirNPG
from tianshou.algorithm import TRPO as TheirTRPO
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy, ProbabilisticActorPolicy
from tianshou.data import Batch
from tianshou.utils.net.common import MLP, Net
from tianshou.utils.net.discrete import dist_fn_categorical_from_logits
from tianshou_cases import (
    BOX,
    CHOICE,
    OBS,
    algorithm,
    batch,
    continuous,
    discrete,
    gaussian,
    in_their_dtype,
    net,
    updated,
)
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from trpo_fast.integrations.tianshou import NPG, TRPO
from trpo_fast.integrations.tianshou import algorithms as module
from trpo_fast.policy.net import MLPPolicy

PAIRS = {"TRPO": (TheirTRPO, TRPO), "NPG": (TheirNPG, NPG)}


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MLP, "forward", in_their_dtype)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The policies that were updated here."""
    found: list[Any] = []
    problem_of = module.problem_of

    def recorded(policy: Any, *given: Any) -> Any:
        found.append(policy)
        return problem_of(policy, *given)

    monkeypatch.setattr(module, "problem_of", recorded)
    return found


class OwnActor(nn.Module):
    """An actor that is none of tianshou's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(OBS, 6), nn.Linear(6, 2)
        self.log_std = nn.Parameter(torch.zeros(2))

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> Any:
        obs = torch.as_tensor(obs, dtype=self.log_std.dtype)
        mean = self.second(torch.sin(self.first(obs)))
        return (mean, self.log_std.exp().expand_as(mean)), state


def own() -> Any:
    return ProbabilisticActorPolicy(
        actor=OwnActor(), dist_fn=gaussian, action_space=BOX, action_scaling=False
    )


def plain_net() -> Any:
    return DiscreteActorPolicy(actor=net(action_shape=(3,)), action_space=CHOICE)


def narrower(found: Any) -> Any:
    mean, std = found
    return Independent(Normal(mean, 0.5 * std), 1)


# Policy -> whether it is for the kernels.
POLICIES: dict[str, tuple[Any, bool]] = {
    "gaussian": (continuous, True),
    "relu layers after": (lambda: continuous(preprocess_net=net(nn.ReLU), hidden_sizes=[4]), True),
    "bounded": (lambda: continuous(unbounded=False), False),
    "std of the state": (lambda: continuous(conditioned_sigma=True), False),
    "leaky": (lambda: continuous(preprocess_net=net(nn.LeakyReLU)), False),
    "another dist_fn": (lambda: continuous(dist_fn=narrower), False),
    "own actor": (own, False),
    "categorical": (discrete, True),
    "logits": (lambda: discrete(dist_fn_categorical_from_logits, softmax_output=False), True),
    "softmax of a softmax": (lambda: discrete(dist_fn_categorical_from_logits), False),
    "a net alone": (plain_net, True),
}


@pytest.mark.filterwarnings("ignore:Backtracking", "ignore:Line search")
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", POLICIES)
def test_the_step_is_theirs(taken: list[Any], name: str, pair: str) -> None:
    policy, for_kernels = POLICIES[name]
    options = {"trust_region_size": 0.1}
    theirs, ours = (updated(kind, policy, **options) for kind in PAIRS[pair])
    found, wanted = ([*made.policy.actor.parameters()] for made in (ours, theirs))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert len(taken) == 1 and isinstance(taken[0], MLPPolicy) is for_kernels
    start = algorithm(PAIRS[pair][1], policy, **options)
    pairs = zip(found, start.policy.actor.parameters(), strict=True)
    assert all(bool((p != q).any()) for p, q in pairs)


@pytest.mark.filterwarnings("ignore:Backtracking", "ignore:Line search")
@pytest.mark.parametrize("pair", PAIRS)
def test_several_updates_and_the_critic_are_theirs(taken: list[Any], pair: str) -> None:
    given = {"batch_size": 40, "repeat": 2, "trust_region_size": 0.1, "optim_critic_iters": 3}
    theirs, ours = (updated(kind, continuous, **given) for kind in PAIRS[pair])
    for part in (lambda made: made.policy.actor, lambda made: made.critic):
        found, wanted = ([*part(made).parameters()] for made in (ours, theirs))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert type(ours.info) is type(theirs.info) and len(taken) == 4
    for name, value in vars(theirs.info).items():
        mine = getattr(ours.info, name)
        if hasattr(value, "mean"):
            pairs = [(getattr(mine, n), getattr(value, n)) for n in ("mean", "std", "max", "min")]
            assert [a for a, _ in pairs] == pytest.approx([b for _, b in pairs], rel=1e-4, abs=1e-6)


@pytest.mark.filterwarnings("ignore:Backtracking")
def test_settings_reach_the_step(taken: list[Any]) -> None:
    options = {"max_kl": 0.5, "backtrack_coeff": 0.5, "max_backtracks": 6}
    theirs, ours = (updated(kind, continuous, **options) for kind in PAIRS["TRPO"])
    found, wanted = ([*made.policy.actor.parameters()] for made in (ours, theirs))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert 0.01 < ours.info.kl.mean < 0.5 and ours.info.step_size.mean > 0


def test_their_ratio_is_rounded_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that rounding, tianshou's TRPO comes to this package's parameters as exactly as its
    NPG does, which has no ratio.
    """

    def difference() -> float:
        made = [updated(kind, continuous) for kind in PAIRS["TRPO"]]
        parameters = [nn.utils.parameters_to_vector(m.policy.actor.parameters()) for m in made]
        return float((parameters[0] - parameters[1]).detach().norm())

    rounded = difference()
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "float", Tensor.double)
        exact = difference()
    assert exact < 1e-12 < 1e-9 < rounded


@pytest.mark.filterwarnings("ignore:Line search failed")
@pytest.mark.parametrize("options", [{"max_backtracks": 1, "max_kl": 50.0}])
def test_a_search_that_fails_leaves_the_actor(options: dict[str, Any]) -> None:
    start = algorithm(TRPO, continuous)
    theirs, ours = (updated(kind, continuous, **options) for kind in PAIRS["TRPO"])
    for made in (theirs, ours):
        pair = [[*each.policy.actor.parameters()] for each in (made, start)]
        torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-15)
        assert made.info.step_size.mean == 0.0
    assert ours.info.kl.mean == 0.0


def plain_normal() -> Any:
    return continuous(dist_fn=lambda found: Normal(*found))


def structured(made: Any) -> Any:
    rows = batch(made)
    rows.obs = Batch(part=rows.obs)
    return rows


class OfPart(Net):
    """Which sees a part of a structured observation."""

    def forward(self, obs: Any, *given: Any, **named: Any) -> Any:
        return super().forward(obs.part if isinstance(obs, Batch) else obs, *given, **named)


def of_part() -> Any:
    return continuous(preprocess_net=OfPart(state_shape=(OBS,), hidden_sizes=[6]))


def dropping() -> Any:
    return continuous(preprocess_net=net(nn.Dropout))


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(
    "policy, words, rows",
    [
        (plain_normal, r"one log-probability a row", batch),
        (dropping, r"got Dropout at .*; tianshou's own", batch),
        (of_part, r"obs: expected an array, got structured", structured),
    ],
)
def test_what_it_does_not_take_is_left_to_tianshou(
    taken: list[Any], monkeypatch: pytest.MonkeyPatch, policy: Any, words: str, rows: Any, pair: str
) -> None:
    theirs, ours = PAIRS[pair]
    made, calls = algorithm(ours, policy), []
    monkeypatch.setattr(theirs, "_update_with_batch", lambda *given: calls.append(given[2:]))
    with pytest.warns(UserWarning, match=words):
        made._update_with_batch(rows(made), 40, 2)
    assert not taken and calls == [(40, 2)]


def test_a_hook_on_a_layer_is_run(taken: list[Any]) -> None:
    made, calls = algorithm(TRPO, continuous), []
    rows = batch(made)
    made.policy.actor.mu.model[0].register_forward_hook(lambda *_: calls.append(1))
    made._update_with_batch(rows, None, 1)
    assert len(calls) > 2 and not isinstance(taken[0], MLPPolicy)
