"""``TRPO(env, policy=module, critic=module)``: networks of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

from envs_for_tests import Counting, Masked
from gymnasium import spaces
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
)

from trpo_fast import TRPO, Config, Critic, evaluate, register_head, unregister_head
from trpo_fast.policy.distributions import MultiCategoricalDistribution, SquashedNormal
from trpo_fast.train.checkpoint import CheckpointError

SMALL2: dict[str, Any] = {"num_envs": 3, "rows_per_update": 60}
SMALL: dict[str, Any] = {**SMALL2, "critic_hidden": (8,)}
LAST = nn.Linear(6, 1)


class Own(nn.Module):
    """A net with a skip connection; ``make`` turns its outputs into what it returns."""

    def __init__(self, obs: int, outputs: int, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.hidden, self.skip = nn.Linear(obs, 6), nn.Linear(obs, outputs)
        self.last, self.make = nn.Linear(6, outputs), make

    def forward(self, obs: Tensor) -> Any:
        return self.make(self.last(self.hidden(obs).tanh()) + self.skip(obs))


class Values(nn.Module):
    def __init__(self, obs: int, plain: bool = True) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.hidden, self.last, self.plain = nn.Linear(obs, 7), nn.Linear(7, 1), plain

    def forward(self, obs: Tensor) -> Tensor:
        found = self.last(self.hidden(obs).tanh())
        return found if self.plain else found[:, 0] + obs[:, 0]


class Acts(Counting):
    """Counting with any actions."""

    def __init__(self, space: Any) -> None:
        super().__init__()
        self.action_space = space

    def save_state(self) -> Any:
        return {"at": [self.episode, self.count]}

    def load_state(self, state: Any) -> None:
        self.episode, self.count = state["at"]


def normal(z: Tensor) -> Distribution:
    return Independent(Normal(z[:, :2], z[:, 2:].exp()), 1)


def multivariate(z: Tensor) -> Distribution:
    return MultivariateNormal(z[:, :2], scale_tril=torch.eye(2) * z[:, 2:].exp().unsqueeze(-1))


BOX = spaces.Box(-2.0, 2.0, (2,))
KINDS: dict[str, tuple[Any, int, Callable[[Tensor], Any], str]] = {
    "categorical": (spaces.Discrete(3), 3, lambda z: Categorical(logits=z), "scale"),
    "with value": (spaces.Discrete(3, start=2), 3, lambda z: (Categorical(logits=z), 0), "scale"),
    "normal": (BOX, 4, normal, "scale"),
    "one number": (spaces.Box(-1, 1, (1,)), 1, lambda z: Normal(z[:, 0], 1.0), "scale"),
    "squashed": (BOX, 4, lambda z: SquashedNormal(normal(z)), "squash"),
    "beta": (BOX, 4, lambda z: Beta(1 + z[:, :2].exp(), 1 + z[:, 2:].exp()), "beta"),
    "bernoulli": (spaces.MultiBinary(4), 4, lambda z: Independent(Bernoulli(logits=z), 1), "scale"),
    "factors": (
        spaces.MultiDiscrete([2, 3]),
        5,
        lambda z: MultiCategoricalDistribution(z, (2, 3)),
        "scale",
    ),
    "registered": (BOX, 4, multivariate, "scale"),
}


@pytest.fixture
def registered() -> Any:
    register_head(MultivariateNormal, params=("loc", "scale_tril"))
    yield
    unregister_head(MultivariateNormal)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("kind", KINDS)
def test_a_module_trains_resumes_exports_and_evaluates(kind: str, tmp_path: Path) -> None:
    space, outputs, make, mode = KINDS[kind]

    def nets() -> dict[str, nn.Module]:
        return {"policy": Own(2, outputs, make), "critic": Values(2)}

    agent = TRPO(lambda: Acts(space), **nets(), num_envs=3, rows_per_update=60)
    assert agent.config.action_mode == mode
    before = [p.clone() for p in agent.policy.parameters()]
    agent.learn(120)
    assert agent.backend == "reference"
    assert not all(
        torch.equal(p, q) for p, q in zip(agent.policy.parameters(), before, strict=True)
    )
    agent.save(tmp_path / "c")
    loaded = TRPO.load(tmp_path / "c", env=lambda: Acts(space), **nets())
    obs = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    assert np.array_equal(agent.predict(obs), loaded.predict(obs))
    assert all(space.contains(action) for action in agent.predict(obs, deterministic=False))
    assert evaluate(agent, 2).returns == evaluate(loaded, 2).returns == [10.0, 10.0]
    for each in (agent, loaded):
        each.learn(60)
    assert torch.equal(agent.critic.theta, loaded.critic.theta)
    for one, other in zip(agent.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    if kind not in ("with value", "squashed", "registered"):
        return  # torch.export takes seconds
    agent.export(tmp_path / "policy.pt2")
    program = torch.export.load(tmp_path / "policy.pt2").module()
    found = program(torch.from_numpy(obs)).detach().numpy()
    np.testing.assert_allclose(found, agent.predict(obs), atol=1e-5)


class Allowing(nn.Module):
    """A policy that takes a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(2, 3)

    def forward(self, obs: Tensor, mask: Tensor) -> Distribution:
        return Categorical(logits=self.last(obs).masked_fill(~mask, -1e8))


def test_a_module_gets_the_masks_of_its_environment() -> None:
    agent = TRPO(Masked, policy=Allowing(), **SMALL).learn(120)  # it fails on what is masked
    mask = [[False, False, True]]
    assert agent.predict(np.zeros((1, 2)), action_mask=mask).tolist() == [2]


def test_a_module_samples_as_the_layers_do() -> None:
    """The same net, once as an MLPPolicy, once as a module: the same actions, nearly the same
    update.
    """
    agents = [TRPO(Counting, **SMALL)]
    agents.append(TRPO(Counting, policy=_Wrapped(agents[0].policy), **SMALL))
    agents[1].critic.load_state_dict(agents[0].critic.state_dict())
    for agent in agents:
        agent.start()
    rollouts = [agent.collect() for agent in agents]
    assert torch.equal(rollouts[0].actions, rollouts[1].actions)
    records = [agent.train_once() for agent in agents]
    assert records[0]["kl"] == pytest.approx(records[1]["kl"], rel=1e-3)
    for one, other in zip(*(agent.policy.parameters() for agent in agents), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


class _Wrapped(nn.Module):
    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.net = TRPO(Counting, **SMALL).policy.net
        self.net.load_state_dict(policy.net.state_dict())

    def forward(self, obs: Tensor) -> Distribution:
        return Categorical(logits=self.net(obs))


@pytest.mark.parametrize("plain", [True, False])
def test_a_critic_that_ends_in_a_linear_follows_the_scale_of_the_targets(plain: bool) -> None:
    obs = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    module = Values(2, plain)
    critic = Critic.of_module(module, obs[:2], epochs=2, minibatch=50)
    assert (critic.net.output is module.last) is plain
    critic.fit(obs, 1e3 * obs.sum(1) + 5e3)
    before = critic.values(obs)
    critic._renormalise(1e5 * obs[:, 0])
    assert torch.allclose(critic.values(obs), before, rtol=1e-4) is plain
    for _ in range(40):
        info = critic.fit(obs, 1e3 * obs.sum(1) + 5e3)
    assert float(info) < 0.05


@pytest.mark.parametrize("method", ["adam", "gauss_newton"])
def test_the_critic_of_a_module_is_fitted_as_that_of_layers(method: str) -> None:
    obs = torch.randn(100, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # With ten steps of conjugate gradient rounding alone may grow to 1e-3 here.
    options: dict[str, Any] = {"method": method, "backend": "reference", "cg_iterations": 5}
    layers, other = (Critic(3, (8,), dtype=torch.float64, **options) for _ in range(2))
    other.load_state_dict(layers.state_dict())
    own = Critic.of_module(other.net.net, obs[:1], **options)
    for critic in (own, layers):
        for _ in range(2):
            critic.fit(obs, obs.sum(1), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(own.values(obs), layers.values(obs), rtol=1e-6, atol=1e-6)


def test_a_run_fits_its_own_critic_by_gauss_newton() -> None:
    config = Config(num_envs=3, rows_per_update=60, critic="gauss_newton")
    agent = TRPO(Counting, config=config, critic=Values(2, False))
    losses = [agent.train_once()["critic_loss"] for _ in range(4)]
    assert agent.critic.net.output is None and losses[-1] < losses[0]


def test_vine_takes_a_module_whose_noise_can_be_shared() -> None:
    settings = SMALL | {"sampling": "vine", "vine_states": 4, "vine_length": 2}
    make = KINDS["categorical"][2]
    record = TRPO("CartPole-v1", policy=Own(4, 2, make), **settings).train_once()
    assert record["rows"] == 8
    register_head(MultivariateNormal, params=("loc", "scale_tril"))
    policy = Own(3, 2, lambda z: MultivariateNormal(z[:, :1], torch.eye(1)))
    try:
        with pytest.raises(ValueError, match="sampling: expected 'path' for the head Registered"):
            TRPO("Pendulum-v1", policy=policy, **settings)
    finally:
        unregister_head(MultivariateNormal)


DISCRETE, NET = spaces.Discrete(3), lambda z: Categorical(logits=z)
REFUSED: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "actions": (DISCRETE, Own(2, 4, NET), {}, r"policy: .* actions of Discrete\(3\), .*, got th"),
    "kind": (
        BOX,
        Own(2, 2, NET),
        {},
        r"policy: .* actions of Box\(.*Gaussian\(2\), got those of C",
    ),
    "dims": (BOX, Own(2, 3, lambda z: Normal(z, 1.0)), {}, "policy: .* got those of Gaussian\\(3"),
    "bits": (spaces.MultiBinary(2), Own(2, 2, lambda z: Normal(z, 1.0)), {}, "policy: .* Bernoul"),
    "numbers": (DISCRETE, Own(2, 3, lambda z: z), {}, "policy: expected .* got Tensor"),
    "headless": (BOX, Own(2, 4, multivariate), {}, "policy: .* register_head .* got Multivariate"),
    "shape": (DISCRETE, Own(5, 3, NET), {}, r"policy: .* takes float32 \[3, 2\], got the error"),
    "rows": (DISCRETE, Own(2, 3, lambda z: Categorical(logits=z[0])), {}, "policy: expected a dis"),
    "mode": (BOX, Own(2, 4, normal), {"action_mode": "beta"}, "action_mode: expected 'clip' or"),
    "no module": (DISCRETE, NET, {}, "policy: expected a torch.nn.Module, got function"),
    "dropout": (
        DISCRETE,
        nn.Sequential(nn.Dropout(), Own(2, 3, NET)),
        {},
        "policy: expected modules that draw no random numbers",
    ),
    "hidden": (DISCRETE, Own(2, 3, NET), {"hidden": (8,)}, "hidden: expected none beside a policy"),
    "dtype": (DISCRETE, Own(2, 3, NET).double(), {}, "policy: expected float32 parameters on cpu"),
    "values": (DISCRETE, None, {"critic": Own(2, 3, lambda z: z)}, r"critic: .* \[3, 1\], got flo"),
    "critic": (
        DISCRETE,
        None,
        {"critic": Critic(2)},
        "critic: expected a torch.nn.Module of v",
    ),
    "word": (DISCRETE, None, {"critic": "sgd"}, "critic: expected one of .*, got 'sgd'"),
    "widths": (
        DISCRETE,
        None,
        {"critic": Values(2), "critic_hidden": (8,)},
        "critic_hidden: expected none beside a critic",
    ),
    "rat": (DISCRETE, Own(2, 3, NET), {"algorithm": "rat"}, "policy: expected an MLPPolicy as it"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_nets_that_do_not_fit_are_refused_in_a_sentence(what: str) -> None:
    space, policy, settings, message = REFUSED[what]
    with pytest.raises(ValueError, match=f"^{message}"):
        TRPO(lambda: Acts(space), policy=policy, num_envs=3, rows_per_update=60, **settings)


def test_a_critic_within_the_policy_is_refused() -> None:
    policy = Own(2, 3, NET)
    with pytest.raises(ValueError, match="critic: expected parameters of its own, got some"):
        TRPO(Counting, policy=policy, critic=nn.Sequential(policy.hidden, LAST), **SMALL2)


def test_a_checkpoint_asks_for_the_modules_it_was_made_with(tmp_path: Path) -> None:
    agent = TRPO(Counting, policy=Own(2, 3, NET), critic=Values(2), **SMALL2)
    agent.save(tmp_path / "c")
    for nets, name in (
        ({"critic": Values(2)}, "policy: expected one such as the Own"),
        ({"policy": Own(2, 3, NET)}, "critic: expected one such as the Values"),
    ):
        with pytest.raises(CheckpointError, match=f"^{name} of "):
            TRPO.load(tmp_path / "c", env=Counting, **nets)
    with pytest.raises(CheckpointError, match="does not fit"):
        TRPO.load(tmp_path / "c", env=Counting, policy=Own(2, 3, NET), critic=nn.Linear(2, 1))


class Reused(nn.Module):
    """Its last layer's weight scales its inputs as well."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 1)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(obs) * self.out.weight)


def test_a_last_layer_that_is_used_elsewhere_is_not_rescaled() -> None:
    torch.manual_seed(0)
    obs = torch.randn(64, 4)
    module = Reused()
    before = module.out.weight.clone()
    critic = Critic.of_module(module, obs, epochs=1, learning_rate=1e-12)
    assert critic.net.output is None and torch.equal(module.out.weight, before)
    critic.fit(obs, torch.randn(64))
    critic.fit(obs, 100.0 + 50.0 * torch.randn(64))
    torch.testing.assert_close(module.out.weight, before)


def test_a_critic_of_other_observations_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"critic: expected a module that takes float32 \[2, 4\]"):
        TRPO("CartPole-v1", critic=nn.Linear(5, 1), num_envs=2, rows_per_update=64)


@pytest.mark.parametrize("part", [nn.BatchNorm1d(8), nn.Dropout(0.1), nn.RReLU()], ids=str)
def test_a_critic_values_each_row_alone_and_without_chance(part: nn.Module) -> None:
    critic = nn.Sequential(nn.Linear(4, 8), part.train(), nn.Tanh(), nn.Linear(8, 1))
    wanted = rf"^critic: expected modules that value .* got {type(part).__name__} at 1$"
    with pytest.raises(ValueError, match=wanted):
        TRPO("CartPole-v1", critic=critic, num_envs=2, rows_per_update=64)
    TRPO("CartPole-v1", critic=critic.eval(), num_envs=2, rows_per_update=64).train_once()
