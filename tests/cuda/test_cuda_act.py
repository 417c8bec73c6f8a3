"""Acting on the device in one launch against the torch modules: every head, mask, net and size."""

from __future__ import annotations

import pytest
import torch
from act_cases import AS_THE_MODULES, Outputs, assert_equal, check_follows, make, room
from cases import ON_CUDA
from cuda_support import DEVICE, EMULATED, kernels, schedule, small_device  # noqa: F401
from exactness import no_worse
from torch import Tensor

from trpo_fast import Gaussian, MLPPolicy
from trpo_fast.core.problem import BackendUnavailable
from trpo_fast.learner.actor import ActTensors, ModuleActor
from trpo_fast.learner.actor_cuda import CudaActor, cuda_act_support
from trpo_fast.learner.critic import Critic
from trpo_fast.learner.normalise import ObservationNormaliser

# (head, hidden, activation, obs_dim, rows): pairwise, one row to many tiles of either size
CASES = [
    ("gaussian", (8, 5), "tanh", 5, 1),
    ("gaussian", (64, 64), "gelu", 11, 33),
    ("gaussian", (), "tanh", 1, 300),
    ("gaussian_one", (7,), "elu", 17, 16),
    ("gaussian_state", (128,), "silu", 17, 7),
    ("gaussian_state", (6, 5, 7, 4), "relu", 5, 129),
    ("squashed", (17, 96), "identity", 11, 15),
    ("categorical", (8, 5), "relu", 5, 300),
    ("categorical", (33,), "tanh", 4, 1),
    ("multicategorical", (5,), "silu", 5, 33),
    ("multicategorical", (8, 5), "tanh", 5, 150),
    ("bernoulli", (), "gelu", 5, 17),
    ("bernoulli", (64, 64), "tanh", 5, 140),
    ("gaussian", (128, 128), "tanh", 348, 20),  # does not fit on chip: loaded in panels
    ("categorical", (300, 140), "elu", 5, 18),
]


def made(head: str, hidden: tuple[int, ...], activation: str, obs_dim: int):
    policy, critic = make(head, hidden, activation, obs_dim)
    return policy.to(DEVICE), critic.to(DEVICE)


def acted(kind, policy, critic, obs: Tensor, mask: Tensor | None = None) -> Outputs:
    actor = kind(policy, critic, torch.Generator(DEVICE).manual_seed(7))
    out = tuple(tensor.to(DEVICE) for tensor in room(policy, len(obs)))
    actor.act(ActTensors(obs, mask, *out))
    return out


@pytest.mark.parametrize(("head", "hidden", "activation", "obs_dim", "rows"), CASES)
def test_equals_the_modules(head, hidden, activation, obs_dim, rows) -> None:
    policy, critic = made(head, hidden, activation, obs_dim)
    obs = torch.randn(rows, obs_dim, device=DEVICE)
    ours = acted(CudaActor, policy, critic, obs)
    assert_equal(ours, acted(ModuleActor, policy, critic, obs))
    torch.testing.assert_close(
        CudaActor(policy, critic).values(obs), critic.values(obs), **AS_THE_MODULES
    )


@pytest.mark.parametrize("head", ON_CUDA)
def test_log_probs_and_values_are_those_of_float64(head: str) -> None:
    """Errors at most twice those of the float32 modules, plus epsilon."""
    policy, critic = made(head, (64, 64), "tanh", 5)
    obs = torch.randn(65, 5, device=DEVICE)
    actions, *ours = acted(CudaActor, policy, critic, obs)
    params = policy.distribution_params(obs)
    single = policy.head.log_prob(params, actions).detach(), critic.values(obs)
    policy, critic, obs = policy.double(), critic.double(), obs.double()
    exact_actions = actions if policy.head.nvec else actions.double()
    exact = policy.head.log_prob(policy.distribution_params(obs), exact_actions).detach()
    for got, theirs, wanted in zip(ours, single, (exact, critic.values(obs)), strict=True):
        no_worse(got, theirs, wanted)


@pytest.mark.parametrize("head", ["categorical", "multicategorical"])
def test_masks(head: str) -> None:
    policy, critic = made(head, (8, 5), "tanh", 5)
    mask = torch.rand(200, policy.head.outputs) < 0.5
    for begin, n in zip((0, 2, 5), policy.head.nvec, strict=False):
        mask[:, begin + n - 1] = True
    obs, mask = torch.randn(200, 5, device=DEVICE), mask.to(DEVICE)
    ours = acted(CudaActor, policy, critic, obs, mask)
    assert_equal(ours, acted(ModuleActor, policy, critic, obs, mask))
    assert mask.gather(1, ours[0].reshape(200, -1)[:, :1]).all()


def test_normalises_on_the_way_in() -> None:
    policy, critic = made("gaussian", (8, 5), "tanh", 5)
    normaliser = ObservationNormaliser(5, clip=1.5, device=DEVICE)
    actor = CudaActor(policy, critic, torch.Generator(DEVICE), normaliser=normaliser)
    for round_ in range(2):  # the second time with statistics that have moved
        normaliser.update(torch.randn(50, 5, device=DEVICE) * 3.0 + 2.0 + round_)
        obs, seen = torch.randn(9, 5, device=DEVICE) * 4.0, torch.zeros(9, 5, device=DEVICE)
        obs[3, 2] = torch.nan
        actor.generator.manual_seed(7)
        out = tuple(tensor.to(DEVICE) for tensor in room(policy, 9))
        actor.act(ActTensors(obs, None, *out, seen=seen))
        torch.testing.assert_close(seen, normaliser(obs), equal_nan=True)
        wanted = acted(ModuleActor, policy, critic, normaliser(obs))
        for ours, theirs in zip(out, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, **AS_THE_MODULES, equal_nan=True)
            assert ours.isnan().reshape(9, -1).any(1).nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("order", [(0, 0, 0.0), (2, 3, 0.0), (2, 4, 0.3)])
def test_schedules_change_no_bit(order: tuple[int, int, float]) -> None:
    policy, critic = made("gaussian", (64, 64), "tanh", 11)
    obs = torch.randn(150, 11, device=DEVICE)
    first = acted(CudaActor, policy, critic, obs)
    schedule(*order)
    again = acted(CudaActor, policy, critic, obs)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_follows_parameters_and_parts() -> None:
    check_follows(CudaActor, *made("gaussian", (8, 5), "tanh", 5))


def test_an_actor_does_not_follow_to_another_device() -> None:
    """Its launches, and what it has bound, are for the device where it was made."""
    policy, critic = made("gaussian", (8, 5), "tanh", 5)
    actor = CudaActor(policy, critic)
    elsewhere = torch.device(DEVICE.type, 0 if EMULATED else 7)
    actor._policy.device = elsewhere  # as if the policy had been there
    policy.load_state_dict({k: v.clone() for k, v in policy.state_dict().items()}, assign=True)
    with pytest.raises(RuntimeError, match=f"expected parameters on {elsewhere}.*make another"):
        actor.recheck_nets()


def test_tensors_of_another_device_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room of its own for every tensor, as for those of the host beside a device."""
    policy, critic = made("categorical", (8, 5), "tanh", 5)
    obs, mask = torch.randn(9, 5, device=DEVICE), torch.ones(9, 4, dtype=torch.bool, device=DEVICE)
    wanted = acted(CudaActor, policy, critic, obs, mask)
    monkeypatch.setattr(CudaActor, "_beside", lambda self, tensor: torch.full_like(tensor, 0))
    assert_equal(acted(CudaActor, policy, critic, obs, mask), wanted)


def test_says_why_not() -> None:
    policy, critic = made("gaussian", (8,), "tanh", 5)
    assert "MLPPolicy" in cuda_act_support(torch.nn.Linear(2, 2), critic).why_not
    with pytest.raises(BackendUnavailable, match=r"can act for .*, got: policy: expected float32"):
        CudaActor(policy.double(), critic)
    wide = MLPPolicy(5, Gaussian(1), (2000,)).to(DEVICE), Critic(5, device=DEVICE)
    with small_device(shared_kib=99), pytest.raises(BackendUnavailable, match="one tile of 16"):
        CudaActor(*wide)
