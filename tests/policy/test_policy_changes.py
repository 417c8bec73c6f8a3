"""MLPPolicies that somebody changed: what is computed is the derivative of what they compute, or a
sentence says why nothing is.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import pytest
import torch
from exactness import relative_error
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

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
from trpo_fast.learner.actor import ModuleActor
from trpo_fast.learner.critic import Critic
from trpo_fast.policy.flat import every_parameter

pytestmark = pytest.mark.attack

ROWS, OBS, WIDTH, ACTIONS = 17, 4, 5, 2


def double(module: Any, given: Any, result: Any) -> Any:
    return 2.0 * result


def double_inputs(module: Any, given: tuple[Tensor]) -> tuple[Tensor]:
    return (2.0 * given[0],)


def wider(module: Any, given: Any, result: Any) -> Any:
    """Another distribution than the one that came."""
    return module.head.distribution(torch.cat([result.mean, result.stddev.log() + 0.3], -1))


class Bounded(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return value.tanh()


class Scaled(MLPPolicy):
    def distribution_params(self, obs: Tensor, action_mask: Tensor | None = None) -> Tensor:
        return super().distribution_params(3.0 * obs, action_mask)


class Wide(MLPPolicy):
    def forward(self, obs: Tensor, action_mask: Tensor | None = None) -> Any:
        return wider(self, None, super().forward(obs, action_mask))


def scaled_forward(self: nn.Sequential, value: Tensor) -> Tensor:
    return 0.5 * nn.Sequential.forward(self, value)


def plain_forward(self: MLPPolicy, obs: Tensor, action_mask: Tensor | None = None) -> Any:
    return self.head.distribution(self.head.distribution_params(self.net(3.0 * obs)))


def plain_params(self: MLPPolicy, obs: Tensor, action_mask: Tensor | None = None) -> Tensor:
    return self.head.distribution_params(self.net(3.0 * obs))


def tie(policy: MLPPolicy) -> None:
    policy.net[2].weight = policy.net[4].weight = nn.Parameter(torch.randn(WIDTH, WIDTH))


def pruned_for_good(policy: MLPPolicy) -> None:
    prune.l1_unstructured(policy.net[0], "weight", 0.5)
    prune.remove(policy.net[0], "weight")


def replace(policy: MLPPolicy, **modules: nn.Module) -> None:
    for name, module in modules.items():
        policy.net[int(name[1:])] = module


SERVED: dict[str, Callable[[MLPPolicy], Any]] = {
    "forward hook": lambda p: p.net[1].register_forward_hook(double),
    "forward pre-hook": lambda p: p.net[0].register_forward_pre_hook(double_inputs),
    "hook on the net": lambda p: p.net.register_forward_hook(double),
    "hook on the policy": lambda p: p.register_forward_hook(wider),
    "pre-hook on the policy": lambda p: p.register_forward_pre_hook(double_inputs),
    "pruning": lambda p: prune.l1_unstructured(p.net[0], "weight", 0.5),
    "pruning made permanent": pruned_for_good,
    "old spectral_norm": lambda p: spectral_norm(p.net[2]),
    "spectral_norm": lambda p: parametrizations.spectral_norm(p.net[2]),
    "old weight_norm": lambda p: weight_norm(p.net[0]),
    "weight_norm": lambda p: parametrizations.weight_norm(p.net[0]),
    "orthogonal": lambda p: parametrizations.orthogonal(p.net[2]),
    "parametrized log_std": lambda p: parametrize.register_parametrization(
        p.head, "log_std", Bounded()
    ),
    "ELU(alpha=0.3)": lambda p: replace(p, _1=nn.ELU(alpha=0.3)),
    "GELU('tanh')": lambda p: replace(p, _1=nn.GELU("tanh"), _3=nn.GELU("tanh")),
    "net.forward": lambda p: setattr(p.net, "forward", MethodType(scaled_forward, p.net)),
    "forward": lambda p: setattr(p, "forward", MethodType(plain_forward, p)),
    "distribution_params": lambda p: setattr(p, "distribution_params", MethodType(plain_params, p)),
    "tied weights": tie,
    "one layer twice": lambda p: replace(p, _4=p.net[2]),
    "subclass's distribution_params": lambda p: setattr(p, "__class__", Scaled),
    "subclass's forward": lambda p: setattr(p, "__class__", Wide),
    "compiled in place": lambda p: p.net.compile(backend="eager"),
}
KERNELS_STAY = {"compiled in place"}


def make(name: str) -> MLPPolicy:
    torch.manual_seed(0)
    activation = {"ELU(alpha=0.3)": "elu", "GELU('tanh')": "gelu"}.get(name, "tanh")
    hidden = (WIDTH, WIDTH, WIDTH) if name in ("tied weights", "one layer twice") else (WIDTH,) * 2
    policy = MLPPolicy(OBS, Gaussian(ACTIONS), hidden, activation, output_gain=0.5).double()
    flat_params(policy).add_(0.1 * torch.randn(policy.spec.size, dtype=torch.float64))
    SERVED[name](policy)
    return policy.double().eval()


def params_of(policy: MLPPolicy, obs: Tensor) -> Tensor:
    """[N, 2A] by the user's own call."""
    distribution = policy(obs)
    return torch.cat([distribution.mean, distribution.stddev.log()], -1)


def product(policy: MLPPolicy, obs: Tensor, v: Tensor) -> Tensor:
    """F v + 0.1 v from a Jacobian by plain autograd through the user's own module."""
    params = params_of(policy, obs)
    parameters = [p for p in every_parameter(policy) if p.requires_grad]
    rows = []
    for value in params.reshape(-1):
        parts = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([part.reshape(-1) for part in parts]))
    J = torch.stack(rows)
    log_std = params[:, ACTIONS:]
    metric = torch.cat([(-2.0 * log_std).exp(), torch.full_like(log_std, 2.0)], -1).reshape(-1)
    return J.T @ (metric * (J @ v)) / len(obs) + 0.1 * v


def rows_for(policy: MLPPolicy) -> Batch:
    obs = torch.randn(ROWS, OBS, dtype=torch.float64)
    with torch.no_grad():
        distribution = policy(obs)
        actions = distribution.sample()
    advantages = torch.randn(ROWS, dtype=torch.float64)
    return Batch(obs, actions, advantages, distribution.log_prob(actions))


@pytest.mark.parametrize("backend", ["auto", "reference", "autograd"])
@pytest.mark.parametrize("name", SERVED)
def test_products_and_updates_are_those_of_the_changed_policy(name: str, backend: str) -> None:
    policy = make(name)
    batch = rows_for(policy)
    F = FisherOperator(policy, batch.obs, backend=backend)
    v = torch.randn(F.shape[0], dtype=torch.float64)
    assert relative_error(F @ v, product(policy, batch.obs, v)) < 1e-8
    with torch.no_grad():
        before = copy_of(policy(batch.obs))
    kept = [id(p) for p in policy.parameters()]
    info = trpo_update(policy, batch, backend=backend)
    with torch.no_grad():
        kl = float(kl_divergence(before, policy(batch.obs)).mean())
    assert info.accepted and 0.002 < kl <= 0.01 and abs(info.kl - kl) < 1e-8
    assert [id(p) for p in policy.parameters()] == kept


def copy_of(distribution: Any) -> Any:
    base = distribution.base_dist
    normal = torch.distributions.Normal(base.loc.clone(), base.scale.clone())
    return torch.distributions.Independent(normal, 1)


@pytest.mark.parametrize("name", [name for name in SERVED if name not in KERNELS_STAY])
def test_no_kernel_takes_it_and_one_warning_says_why(name: str) -> None:
    policy = make(name).float()
    obs = torch.randn(ROWS, OBS)
    for backend in ("cpu", "cuda"):
        with pytest.raises(BackendUnavailable):
            FisherOperator(policy, obs, backend=backend)
    why_not = net_support("policy", policy).why_not
    assert why_not.startswith("policy: expected an MLPPolicy as it comes, got one")
    with pytest.warns(UserWarning, match=r"policy: backend='reference', .* as it comes") as told:
        assert FisherOperator(policy, obs).backend == "reference"
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert FisherOperator(policy, obs).backend == "reference"


def test_what_changes_nothing_stays_with_the_kernels() -> None:
    policy = MLPPolicy(OBS, Gaussian(ACTIONS), (WIDTH,))
    policy.note, policy.net[0].note = "a name", [1.0]  # type: ignore[assignment]
    policy.register_buffer("seen", torch.zeros(1))
    policy.register_state_dict_post_hook(lambda *_: None)
    policy.net.compile(backend="eager")
    for p in policy.parameters():
        p.register_hook(lambda g: g)  # runs in backward() alone
    for same in (policy.eval(), copy.deepcopy(MLPPolicy(OBS, Gaussian(ACTIONS), (WIDTH,)))):
        assert FisherOperator(same, torch.randn(3, OBS)).backend == "cpu"
        assert net_support("policy", same)


@contextmanager
def hook_for_all() -> Iterator[None]:
    def halve(module: nn.Module, given: Any, result: Any) -> Any:
        return 0.5 * result if isinstance(module, nn.Tanh) else None

    handle = nn.modules.module.register_module_forward_hook(halve)
    try:
        yield
    finally:
        handle.remove()


def test_hooks_for_all_modules_count() -> None:
    torch.manual_seed(0)
    policy = MLPPolicy(OBS, Gaussian(ACTIONS), (WIDTH,)).double()
    obs, v = torch.randn(ROWS, OBS).double(), torch.randn(policy.spec.size).double()
    with hook_for_all():
        F = FisherOperator(policy, obs)
        assert relative_error(F @ v, product(policy, obs, v)) < 1e-8
        assert "registered for all modules" in net_support("policy", policy.float()).why_not
        spec, theta, rows = policy.spec, flat_params(policy), obs.float()
        net = (list(spec.widths), spec.activation, spec.head, list(spec.nvec))
        found = torch.ops.trpo_fast.fvp(theta, rows, v.float(), *net)
    assert net_support("policy", policy)
    # The operators have no modules: arguments say all.
    assert torch.equal(found, FisherOperator(policy, rows) @ v.float())


def closure(policy: MLPPolicy) -> None:
    forward = policy.net.forward
    policy.net.forward = lambda value: 2.0 * forward(value)  # type: ignore[method-assign]


def elsewhere(policy: MLPPolicy) -> None:
    policy.net[1].register_forward_hook(lambda m, i, h: h + policy.net[0].bias)


def backward_hook(policy: MLPPolicy) -> None:
    policy.net[1].register_full_backward_hook(lambda module, given, out: None)


REFUSED: dict[str, tuple[Callable[[MLPPolicy], Any], str]] = {
    "closure": (closure, r"reach parameters through self.*override the method in a subclass"),
    "hook with others' parameters": (elsewhere, "reach parameters through self"),
    "backward hook": (backward_hook, r"without backward hooks.*got Tanh at net\.1"),
    "spectral_norm": (
        lambda p: parametrizations.spectral_norm(p.net[2]),
        r"write no buffers.*policy\.eval\(\).*got a write to net\.2\.parametrizations",
    ),
    "dropout": (
        lambda p: replace(p, _1=nn.Dropout(0.1)),
        r"no random numbers.*policy\.eval\(\).*got Dropout at net\.1",
    ),
    "compiled by torch.jit": (
        lambda p: replace(p, _1=torch.jit.trace(nn.Tanh(), torch.zeros(1))),  # type: ignore[no-untyped-call]
        "modules in Python, got the compiled TopLevelTracedModule",
    ),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_served_is_refused_in_words(name: str) -> None:
    torch.manual_seed(0)
    change, words = REFUSED[name]
    policy = MLPPolicy(OBS, Gaussian(ACTIONS), (WIDTH, WIDTH))
    batch = Batch(torch.randn(ROWS, OBS), torch.randn(ROWS, ACTIONS), torch.randn(ROWS))
    change(policy)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    for backend in ("auto", "reference", "autograd"):
        with pytest.raises(ValueError, match=f"policy: expected .*{words}"):
            trpo_update(policy, batch, backend=backend)
        with pytest.raises(ValueError, match=f"policy: expected .*{words}"):
            kl_penalty_update(policy, batch, Penalty(), inner="adam", backend=backend)
    for key, value in policy.state_dict().items():
        assert torch.equal(value, before[key])


def test_acting_refuses_a_distribution_that_only_updates_would_see() -> None:
    critic = Critic(OBS)
    for change in (lambda p: p.register_forward_hook(wider), lambda p: setattr(p, "forward", 1)):
        policy = MLPPolicy(OBS, Gaussian(ACTIONS), (WIDTH,))
        actor = ModuleActor(policy, critic, torch.Generator())
        change(policy)
        with pytest.raises(ValueError, match=r"policy: expected one that acts by distribution_"):
            actor.recheck_nets()
    with pytest.raises(ValueError, match=r"policy: expected one that acts by distribution_params"):
        ModuleActor(Wide(OBS, Gaussian(ACTIONS)), critic, torch.Generator())


@pytest.mark.parametrize(
    "change",
    [
        lambda net: weight_norm(net[-1]),
        lambda net: net.register_forward_hook(double),
        lambda net: prune.l1_unstructured(net[-1], "weight", 0.5),
    ],
)
def test_a_critic_whose_outputs_cannot_be_rescaled_is_refused(change: Callable[..., Any]) -> None:
    critic = Critic(OBS, (WIDTH,))
    change(critic.net.net)
    with pytest.raises(ValueError, match="critic: expected a net that ends in a plain Linear"):
        critic.fit(torch.randn(ROWS, OBS), torch.randn(ROWS))


@pytest.mark.parametrize("method", ["adam", "gauss_newton"])
def test_a_critic_with_hooks_inside_is_fitted_as_it_is(method: str) -> None:
    torch.manual_seed(0)
    critic = Critic(OBS, (WIDTH,), method=method, epochs=200)
    critic.net.net[1].register_forward_hook(double)
    obs = torch.randn(200, OBS)
    targets = obs[:, 0] - obs[:, 1]
    losses = []
    for _ in range(3):
        losses.append(float(critic.fit(obs, targets).loss))
        error = 0.5 * ((critic.values(obs) - targets) / critic.std).square().mean()
    assert losses[2] < losses[0] and abs(float(error) - losses[2]) < 0.02
