"""The critic: native fits against plain PyTorch, both against the maths, targets normalised without
moving predictions.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import HIDDEN
from critic_cases import (
    SAME_LOSS,
    SAME_SOLVED_LOSS,
    SAME_SOLVED_VALUES,
    assert_same_fit,
    loss_no_worse,
    nets,
    problem,
)
from exactness import CRITIC_GRADIENT, no_worse
from torch import Tensor

from trpo_fast import BackendUnavailable
from trpo_fast._base import extension
from trpo_fast.backends.support import family_support
from trpo_fast.learner.critic import Critic
from trpo_fast.learner.fits import NativeFit, Targets
from trpo_fast.learner.fits_reference import ReferenceFit
from trpo_fast.policy.flat import flat_params
from trpo_fast.policy.net import ACTIVATIONS

native_only = pytest.mark.skipif(
    not family_support("critic"), reason="no native code in this checkout"
)
BACKENDS = ["reference", pytest.param("cpu", marks=native_only)]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- the native half against the twin


@native_only
@pytest.mark.parametrize("hidden", [*HIDDEN, (64, 64), (129, 33)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("rows", "weighted"), [(1, False), (7, True), (129, False), (500, True)])
def test_gradient(hidden: tuple[int, ...], activation: str, rows: int, weighted: bool) -> None:
    """Error against float64 at most twice that of the float32 reference, plus epsilon."""
    net, targets = nets(hidden, activation, rows, weighted)
    native, single = NativeFit(net, targets), ReferenceFit(net, targets)
    got, g = native.gradient()
    reference_loss, reference_g = single.gradient()
    assert torch.equal(got, native.loss())
    weights = None if targets.weights is None else targets.weights.double()
    exact = Targets(targets.obs.double(), targets.values.double(), weights)
    loss, wanted = ReferenceFit(net.double(), exact).gradient()
    no_worse(g, reference_g, wanted, CRITIC_GRADIENT, "gradient")
    loss_no_worse(got, reference_loss, loss)


@native_only
@pytest.mark.parametrize("isa", ["base", "avx2", "avx512"])
@pytest.mark.parametrize(
    ("hidden", "activation"), [((64, 64), "tanh"), ((7,), "gelu"), ((), "elu")]
)
@pytest.mark.parametrize(("rows", "minibatch"), [(33, 128), (600, 128), (1000, 999), (7, 1)])
def test_adam_equals_the_reference(
    monkeypatch: pytest.MonkeyPatch,
    isa: str,
    hidden: tuple[int, ...],
    activation: str,
    rows: int,
    minibatch: int,
) -> None:
    monkeypatch.setenv("TRPO_FAST_ISA", isa)
    obs, returns = problem(rows)
    weights = torch.linspace(0.0, 2.0, rows)  # the first row does not count
    first = Critic(3, hidden, activation, minibatch=minibatch, epochs=2, backend="cpu")
    twin = Critic(3, hidden, activation, minibatch=minibatch, epochs=2, backend="reference")
    twin.load_state_dict(first.state_dict())
    for seed in range(2):
        try:
            loss = first.fit(obs, returns, weights, generator=seeded(seed)).loss
        except ValueError as error:
            pytest.skip(str(error))
        wanted = twin.fit(obs, returns, weights, generator=seeded(seed)).loss
        torch.testing.assert_close(loss, wanted, **SAME_LOSS)
    assert_same_fit(first, twin)


@native_only
def test_gauss_newton_equals_the_reference() -> None:
    obs, returns = problem()
    options = {"method": "gauss_newton", "fraction": 0.5, "damping": 0.1, "cg_iterations": 5}
    options["steps"] = 1  # conjugate gradient amplifies rounding from step to step
    first, twin = (
        Critic(3, (16, 16), backend=backend, **options) for backend in ("auto", "reference")
    )
    twin.load_state_dict(first.state_dict())
    for seed in range(2):
        info = first.fit(obs, returns, torch.ones(600), generator=seeded(seed))
        wanted = twin.fit(obs, returns, generator=seeded(seed))
        assert info.steps == wanted.steps == 1 and info.backend == "cpu"
        torch.testing.assert_close(info.loss, wanted.loss, **SAME_SOLVED_LOSS)
    torch.testing.assert_close(first.values(obs), twin.values(obs), **SAME_SOLVED_VALUES)


@native_only
@pytest.mark.parametrize("method", ["adam", "gauss_newton"])
def test_threads_change_no_bit(method: str) -> None:
    obs, returns = problem(1500)
    results = []
    state = Critic(3, (64, 64)).state_dict()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        critic = Critic(3, (64, 64), method=method, minibatch=600, epochs=3)
        critic.load_state_dict(state)
        loss = critic.fit(obs, returns, generator=seeded(0)).loss
        results.append((loss, critic.theta.clone()))
    torch.set_num_threads(1)
    if "cpu" not in extension.module().families and method == "gauss_newton":
        pytest.skip("products are torch's in this build")
    for loss, theta in results[1:]:
        assert torch.equal(loss, results[0][0]) and torch.equal(theta, results[0][1])


# ---- what holds on every path


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", ["adam", "gauss_newton"])
def test_fits_explain_the_returns(method: str, backend: str) -> None:
    torch.manual_seed(0)
    obs, returns = problem()
    backend = "auto" if backend == "cpu" else backend
    critic = Critic(3, (32, 32), method=method, minibatch=128, fraction=0.5, backend=backend)
    for _ in range(10):
        critic.fit(obs, returns, generator=seeded(0))
    left = (critic.values(obs) - returns).var() / returns.var()
    assert float(left) < 0.1


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_adam_step_is_the_sign_of_the_gradient(backend: str) -> None:
    torch.manual_seed(0)
    obs, returns = problem(50)
    critic = Critic(3, (8,), epochs=1, minibatch=50, backend=backend)
    start = critic.theta.double().clone()
    targets = (returns - returns.mean()) / returns.std(False)
    _, g = ReferenceFit(critic.net, Targets(obs, targets)).gradient()
    critic.fit(obs, returns, generator=seeded(3))
    wanted = start - critic.learning_rate * g.double().sign() * (g.abs() > 1e-6)
    torch.testing.assert_close(critic.theta.double(), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_weight_zero_may_hold_anything(backend: str) -> None:
    obs, returns = problem(60)
    torch.manual_seed(0)
    first = Critic(3, (8,), minibatch=16, backend=backend)
    second = Critic(3, (8,), minibatch=16, backend=backend)
    second.load_state_dict(first.state_dict())
    first.fit(obs, returns, generator=seeded(1))
    nan = torch.full((5,), torch.nan)
    weights = torch.cat((torch.zeros(5), torch.ones(60)))
    padded = torch.cat((nan[:, None].expand(5, 3), obs))
    second.fit(padded, torch.cat((nan, returns)), weights, generator=seeded(1))
    torch.testing.assert_close(first.theta, second.theta, rtol=1e-4, atol=1e-5)


def test_moving_target_statistics_do_not_move_predictions() -> None:
    torch.manual_seed(0)
    obs, returns = problem()
    critic = Critic(3, (16,))
    critic.fit(obs, returns)
    before = critic.values(obs)
    critic._renormalise(returns * 3.0 - 500.0)
    torch.testing.assert_close(critic.values(obs), before, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_state_continues_bit_for_bit(backend: str) -> None:
    torch.manual_seed(0)
    obs, returns = problem()
    first, second = Critic(3, (16,), backend=backend), Critic(3, (16,), backend=backend)
    first.fit(obs, returns, generator=seeded(1))
    second.load_state_dict(first.state_dict())
    for critic in (first, second):
        critic.fit(obs, returns, generator=seeded(2))
    assert torch.equal(first.theta, second.theta) and torch.equal(first.moments, second.moments)
    assert torch.equal(first.mean, second.mean) and torch.equal(first.std, second.std)


def test_a_gauss_newton_fit_never_raises_the_loss() -> None:
    torch.manual_seed(0)
    obs, returns = problem(40)
    critic = Critic(3, (64, 64), method="gauss_newton", fraction=0.1, damping=1e-6)
    losses = [critic.fit(obs, returns).loss for _ in range(4)]
    targets = Targets(obs, (returns - critic.mean) / critic.std)
    torch.testing.assert_close(ReferenceFit(critic.net, targets).loss(), losses[-1])
    assert losses == sorted(losses, reverse=True)


# ---- what is refused

NAN, ROW = float("nan"), torch.ones(4)
BAD: dict[str, tuple[tuple[Tensor, ...], str]] = {
    "rank": ((torch.ones(4), ROW), "obs: expected shape"),
    "width": ((torch.ones(4, 2), ROW), "obs: expected shape"),
    "dtype": ((torch.ones(4, 3).double(), ROW), "obs: expected dtype"),
    "empty": ((torch.ones(0, 3), torch.ones(0)), "obs: expected at least one row"),
    "length": ((torch.ones(4, 3), torch.ones(5)), "targets: expected shape"),
    "nan target": ((torch.ones(4, 3), ROW * NAN), "targets: expected finite values, got nan"),
    "nan obs": ((torch.ones(4, 3) * NAN, ROW), "obs: expected finite values"),
    "negative": ((torch.ones(4, 3), ROW, -ROW), "weights: expected finite"),
    "no weight": ((torch.ones(4, 3), ROW, 0 * ROW), "weights: expected a positive total"),
    "nan weight": ((torch.ones(4, 3), ROW, NAN * ROW), "weights: expected finite"),
}


@pytest.mark.parametrize("method", ["adam", "gauss_newton"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", BAD)
def test_bad_batches_leave_the_critic_alone(name: str, backend: str, method: str) -> None:
    backend = "auto" if backend == "cpu" else backend
    critic = Critic(3, (4,), method=method, backend=backend)
    critic.fit(torch.randn(8, 3), torch.randn(8))
    before = {key: value.clone() for key, value in critic.state_dict().items()}
    arguments, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        critic.fit(*arguments)
    after = critic.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


SETTINGS: dict[str, tuple[Callable[[], Critic], type[Exception], str]] = {
    "method": (lambda: Critic(3, method="sgd"), ValueError, "critic: expected one of"),
    "rate": (lambda: Critic(3, learning_rate=0.0), ValueError, "learning_rate: expected"),
    "epochs": (lambda: Critic(3, epochs=0), ValueError, "epochs: expected"),
    "backend": (lambda: Critic(3, backend="tpu"), ValueError, "backend: expected one of"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_bad_settings_are_refused(name: str) -> None:
    make, error, message = SETTINGS[name]
    with pytest.raises(error, match=message):
        make()


def test_foreign_states_and_backends_are_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        Critic(3).load_state_dict(Critic(4).state_dict())
    critic = Critic(3, backend="cpu").double()
    with pytest.raises(BackendUnavailable, match="float32"):
        critic.fit(torch.ones(4, 3).double(), torch.ones(4).double())


@pytest.mark.parametrize("method", ["adam", "gauss_newton"])
def test_nets_too_deep_for_the_kernels_fit_by_the_reference(method: str) -> None:
    critic = Critic(4, (5,) * 8, method=method)
    assert critic.fit(torch.randn(20, 4), torch.randn(20)).backend == "reference"
    with pytest.raises(BackendUnavailable, match="at most 7 hidden layers, got 8"):
        Critic(4, (5,) * 8, method=method, backend="cpu").fit(torch.randn(2, 4), torch.randn(2))


@pytest.mark.parametrize("method", ["adam", "gauss_newton"])
def test_frozen_parts_are_refused_in_a_sentence(method: str) -> None:
    critic = Critic(3, (8,), method=method)
    critic.net.net[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match="critic: expected parameters that all require gradients"):
        critic.fit(*problem(50))


def test_float64_fits_by_the_reference() -> None:
    critic = Critic(3, (8,)).double()
    obs, returns = problem(50)
    assert critic.fit(obs.double(), returns.double()).backend == "reference"
    assert flat_params(critic.net).dtype == torch.float64
