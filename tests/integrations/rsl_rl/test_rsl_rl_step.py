"""The actor's step in rsl_rl's models, against one written out with rsl_rl's own KL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("rsl_rl")

from rsl_rl.models import MLPModel
from rsl_rl_cases import GAUSSIAN, algorithm, written_out

from trpo_fast.integrations.rsl_rl import TRPO
from trpo_fast.integrations.rsl_rl import trpo as module

CNN = {
    "class_name": "CNNModel",
    "cnn_cfg": {"output_channels": [2], "kernel_size": 3, "activation": "tanh"},
}
STATE = {"class_name": "HeteroscedasticGaussianDistribution"}


class Shifted(MLPModel):
    """Whose net sees something else."""

    def get_latent(self, *given: Any) -> Any:
        return 0.5 - super().get_latent(*given)


class Bounded(MLPModel):
    """Whose output is another."""

    def forward(self, *given: Any, **named: Any) -> Any:
        return super().forward(*given, **named)


# Actor -> whether its net is one for the kernels.
ACTORS: dict[str, tuple[dict[str, Any], bool]] = {
    "log std": ({}, True),
    "tanh, normalised": ({"activation": "tanh", "obs_normalization": True}, True),
    "std of the state": ({"distribution_cfg": {**STATE, "std_type": "log"}}, True),
    "beta": ({"distribution_cfg": {"class_name": "BetaDistribution"}}, True),
    "own latent": ({"class_name": Shifted}, True),
    "own forward": ({"class_name": Bounded}, False),
    "leaky": ({"activation": "lrelu"}, False),
    "fixed std": ({"distribution_cfg": {**GAUSSIAN, "learn_std": False}}, False),
    "scalar std of the state": ({"distribution_cfg": STATE}, False),
    "image": ({**CNN, "image": True}, False),
}


@pytest.fixture(autouse=True)
def wide() -> Iterator[None]:
    """Models and storages in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The policies that were updated, each with what the update reported."""
    found: list[Any] = []
    update = module.trpo_update

    def recorded(policy: Any, *given: Any, **named: Any) -> Any:
        info = update(policy, *given, **named)
        found.append((policy, info))
        return info

    monkeypatch.setattr(module, "trpo_update", recorded)
    return found


def made_of(actor: dict[str, Any], **options: Any) -> Any:
    actor = dict(actor)
    image = actor.pop("image", False)
    critic = {key: actor[key] for key in ("class_name", "cnn_cfg") if image}
    return algorithm(TRPO, actor=actor, critic=critic, image=image, **options)


@pytest.mark.parametrize("name", ACTORS)
def test_the_step_is_that_of_rsl_rl_s_own_kl(taken: list[Any], name: str) -> None:
    actor, for_kernels = ACTORS[name]
    made = made_of(actor)
    wanted = written_out(made)
    told = made.update()
    found = [p for p in made.actor.parameters() if p.requires_grad]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    ((policy, info),) = taken
    assert (made._actor_net is not None and policy is made._actor_net.policy) is for_kernels
    assert told["accepted"] == 1.0 and 0.0 < told["kl"] == info.kl <= 0.01


def test_a_std_that_is_a_parameter_moves_as_its_logarithm(taken: list[Any]) -> None:
    pair = [made_of({"distribution_cfg": {**GAUSSIAN, "std_type": t}}) for t in ("log", "scalar")]
    for made in pair:
        made.update()
    log, scalar = (made.actor for made in pair)
    torch.testing.assert_close(log.mlp.state_dict(), scalar.mlp.state_dict(), rtol=1e-9, atol=1e-9)
    std = scalar.distribution.std_param.detach()
    torch.testing.assert_close(std, log.distribution.log_std_param.detach().exp())
    assert bool((std != 1.0).all()) and len(taken) == 2
    assert torch.equal(scalar.output_std, std.expand(1, -1))  # what the runner logs


@pytest.mark.parametrize("limits, tries", [((1e-6, 1.0 + 1e-9), 2), ((1.0, 9.0), 1)])
def test_limits_of_std_are_kept(taken: list[Any], limits: tuple[float, float], tries: int) -> None:
    """Beyond its upper limit a step of the net would be another policy's; at the lower one it is
    not tried.
    """
    known = {**GAUSSIAN, "std_range": limits, "std_type": "scalar"}
    made = made_of({"distribution_cfg": known})
    wanted = written_out(made)
    made.update()
    assert len(taken) == tries and taken[-1][0] is made._module
    found = [p for p in made.actor.parameters() if p.requires_grad]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_settings_reach_the_step(taken: list[Any]) -> None:
    made = made_of({}, desired_kl=1e-3, damping=0.3, backend="reference")
    wanted = written_out(made, max_kl=1e-3, damping=0.3)
    told = made.update()
    torch.testing.assert_close([*made.actor.parameters()], wanted, rtol=1e-5, atol=1e-6)
    assert told["kl"] <= 1e-3 and taken[0][1].backend == "reference"


def test_a_step_that_fails_leaves_the_actor(taken: list[Any]) -> None:
    made = made_of({"distribution_cfg": {**GAUSSIAN, "std_type": "scalar"}})
    before = [p.clone() for p in made.actor.parameters()]
    made.storage.advantages = torch.zeros_like(made.storage.advantages)
    told = made.update()
    assert told["accepted"] == 0.0 and told["kl"] == 0.0
    torch.testing.assert_close([*made.actor.parameters()], before, rtol=1e-12, atol=0.0)


def test_advantages_are_normalised_once() -> None:
    pair = [made_of({}, normalize_advantage_per_mini_batch=each) for each in (False, True)]
    assert float(pair[1].storage.advantages.std()) != pytest.approx(1.0, rel=1e-3)
    for made in pair:
        made.update()
    torch.testing.assert_close(*[[*made.actor.parameters()] for made in pair])


def test_a_hook_on_the_net_is_run(taken: list[Any]) -> None:
    made = made_of({})
    calls: list[int] = []
    made.actor.mlp[0].register_forward_hook(lambda *_: calls.append(1))
    made.update()
    assert taken[0][0] is made._module and calls
