"""What a training loop does beside updates where PyTorch does it on a device: advantages, the
critic's fits, acting. Nothing waits for the device or copies from the host, and the results are
those of the ordinary run.
"""

from __future__ import annotations

import copy

import pytest
import torch
from advantage_cases import following_values, rollout
from cases import HEADS, Case
from critic_cases import problem
from host_recorder import recording  # noqa: F401
from no_waits import no_waits, without_waits
from torch import Tensor

from trpo_fast import captured_graphs
from trpo_fast._base import arguments
from trpo_fast.core import checks
from trpo_fast.learner import advantage
from trpo_fast.learner.actor import ActTensors, ModuleActor
from trpo_fast.learner.critic import Critic
from trpo_fast.learner.normalise import ObservationNormaliser


@pytest.mark.parametrize("method", ["adam", "gauss_newton"])
@pytest.mark.parametrize("preconditioner", [None, "kfac"])
def test_fits_of_the_critic(method: str, preconditioner: str | None) -> None:
    obs, returns = problem(90)
    options = {"epochs": 2, "minibatch": 32, "steps": 2, "cg_iterations": 3}
    critic = Critic(
        3, (140,), method=method, preconditioner=preconditioner, backend="reference", **options
    )
    assert critic.theta.numel()  # laid out before, as a first call does
    other = copy.deepcopy(critic)
    for _ in range(2):  # the first sets the scale of the targets
        torch.manual_seed(3)
        info = without_waits(lambda: critic.fit(obs, returns, sync=False))
        torch.manual_seed(3)
        usual = other.fit(obs, returns)
        assert info.steps == usual.steps > 0
        torch.testing.assert_close(info.loss, usual.loss)
        torch.testing.assert_close(critic.theta, other.theta)
    assert info.loss.isfinite() and info.loss < 0.5


def test_a_fit_by_gauss_newton_that_finds_nothing_moves_nothing() -> None:
    """At its minimum no step lowers the loss: on a device the steps that are left move nothing."""
    obs, returns = problem(60)
    critic = Critic(3, (), method="gauss_newton", damping=0.0, fraction=1.0, backend="reference")
    critic.cg_iterations, critic.steps = 20, 4
    for _ in range(4):
        critic.fit(obs, returns)
    other, before = copy.deepcopy(critic), critic.theta.clone()
    info = without_waits(lambda: critic.fit(obs, returns, sync=False))
    usual = other.fit(obs, returns)
    assert info.steps == usual.steps < 4
    torch.testing.assert_close(critic.theta, other.theta)
    torch.testing.assert_close(critic.theta, before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["adam", "gauss_newton"])
def test_fits_have_no_tensor_elsewhere(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """On the meta device there is no value that the host could ask for."""
    for module in (arguments, checks):
        monkeypatch.setattr(module, "check_memory", lambda *_: None)
    obs, returns = (t.to("meta") for t in problem(60))
    critic = Critic(3, (140,), method=method, epochs=1, steps=2, device="meta", backend="reference")
    for _ in range(2):
        with no_waits(on_meta=True):
            info = critic.fit(obs, returns, sync=False)
    assert info.loss.is_meta and critic.theta.is_meta


def test_targets_that_are_not_finite_leave_the_critic_as_it_was() -> None:
    obs, returns = problem(60)
    critic = Critic(3, (8,), epochs=1, backend="reference")
    critic.fit(obs, returns)
    before, broken = critic.theta.clone(), returns.clone()
    broken[3] = torch.nan
    info = without_waits(lambda: critic.fit(obs, broken, sync=False))
    assert info.loss.isnan() and torch.equal(critic.theta, before)


def estimates(device: str) -> list[Tensor]:
    rows = {name: value.to(device) for name, value in rollout(33, 5, seed=2).items()}
    done = rows["terminated"] | rows["truncated"]
    values, rewards = rows["values"], rows["rewards"]
    following = following_values(rows) if device == "cpu" else torch.empty_like(values)
    begun = torch.zeros(5, dtype=torch.int64, device=device)
    with no_waits(on_meta=device == "meta"):
        found = [
            advantage.gae(rewards, values, following, done, gamma=0.9, lam=0.9, backend=backend)
            for backend in ("auto", "reference")
        ]
        found.append(advantage.n_step(rewards, values, following, done, gamma=0.9, steps=3))
        found.append(advantage.discounted_returns(rewards, following, done, gamma=0.9))
        steps = advantage.episode_steps(done, begun)
        found.append(advantage.discount_weights(steps, 0.9))
        found.append(advantage.normalise(found[0].flatten(), found[-1].flatten()))
        found.append(advantage.normalise(found[0]))
        found.append(advantage.explained_variance(values, found[0] + values))
    return found


def test_advantages_and_returns() -> None:
    """On the meta device there is no value that the host could ask for."""
    found, shapes = estimates("cpu"), estimates("meta")
    assert [t.shape for t in found] == [t.shape for t in shapes]
    assert all(t.is_meta for t in shapes) and all(t.isfinite().all() for t in found)


@pytest.mark.parametrize("head", HEADS)
def test_acting_by_modules(head: str) -> None:
    case = Case(head, (140,), masks="categorical" in head, dtype=torch.float32)
    policy, critic = case.policy(), Critic(case.obs_dim, (140,))
    rows, normaliser = case.batch(policy), ObservationNormaliser(case.obs_dim)
    assert rows.actions is not None
    actions, mask = torch.empty_like(rows.actions), rows.action_mask
    tensors = ActTensors(rows.obs, mask, actions, *torch.empty(2, len(rows)))
    actor = ModuleActor(policy, critic, torch.default_generator)
    call = actor.bind(tensors)
    with no_waits(generators=[torch.default_generator]):
        call()
        normaliser(rows.obs)
    with torch.no_grad():
        params = policy.distribution_params(rows.obs, mask)
    torch.testing.assert_close(tensors.log_probs, policy.head.log_prob(params, tensors.actions))


@pytest.mark.parametrize("weighted", [False, True])
def test_epochs_of_adam_are_replayed(recording, weighted: bool) -> None:  # noqa: F811
    """The second epoch of the first fit is recorded: rows, their order, and the count of steps are
    others at every replay. Fits of another number of rows, and long epochs, are not those.
    """
    critic = Critic(3, (9,), epochs=4, minibatch=32, backend="reference")
    other = copy.deepcopy(critic)
    other.capture = False
    begun = captured_graphs()
    for i in range(3):
        obs, returns = problem(90)
        obs, returns = obs + 0.1 * i, returns * (1 + i)
        weights = torch.rand(90) + 0.1 if weighted else None
        for each in (critic, other):
            torch.manual_seed(i)
            info = each.fit(obs, returns, weights)
        assert info.steps == 12 and critic.adam_steps == int(critic.taken) == 12 * (i + 1)
        torch.testing.assert_close(critic.theta, other.theta)
        torch.testing.assert_close(critic.moments, other.moments)
    after = captured_graphs()
    assert after.graphs == begun.graphs + 1 and after.replays == begun.replays + 10
    critic.minibatch = 3 if weighted else 89
    critic.fit(*problem(1800 if weighted else 90))
    assert captured_graphs().graphs == after.graphs + (not weighted)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("preconditioner", [None, "kfac"])
def test_fits_by_gauss_newton_are_replayed(recording, weighted: bool, preconditioner: str) -> None:  # noqa: F811
    """From the third on, whatever the rows, the parts of them that curvature is of, and the steps
    that are taken.
    """
    critic = Critic(3, (9,), method="gauss_newton", steps=3, cg_iterations=3, backend="reference")
    critic.preconditioner = preconditioner  # type: ignore[assignment]
    other, begun = copy.deepcopy(critic), captured_graphs()
    other.capture = False
    for i in range(5):
        obs, returns = problem(90)
        obs, returns = obs + 0.1 * i, returns * (1 + i)
        weights = torch.rand(90) + 0.1 if weighted else None
        taken = []
        for each in (critic, other):
            torch.manual_seed(i)
            taken.append(each.fit(obs, returns, weights).steps)
        assert taken[0] == taken[1]
        torch.testing.assert_close(critic.theta, other.theta, rtol=1e-3, atol=1e-5)
    after = captured_graphs()
    assert after.graphs == begun.graphs + 1 and after.replays == begun.replays + 3
