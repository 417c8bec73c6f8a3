"""The critic's fits on the device against plain PyTorch, float64 and the maths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from critic_cases import (
    SAME_LOSS,
    SAME_SOLVED_LOSS,
    SAME_SOLVED_VALUES,
    SAME_THETA,
    assert_same_fit,
    loss_no_worse,
    nets,
    problem,
)
from cuda_support import DEVICE, EMULATED, Emulator, kernels, schedule, small_device  # noqa: F401
from exactness import CRITIC_GRADIENT, no_worse
from torch import Tensor

from trpo_fast import BackendUnavailable
from trpo_fast.learner.critic import Critic
from trpo_fast.learner.fits import Targets
from trpo_fast.learner.fits_cuda import CudaFit
from trpo_fast.learner.fits_reference import ReferenceFit
from trpo_fast.policy.net import MLPPolicy

# (hidden, activation, rows, weighted, blocks): pairwise; 129 and 33 take three register tiles
CASES = [
    ((), "tanh", 1, False, 0),
    ((), "elu", 129, True, 3),
    ((7,), "gelu", 33, True, 1),
    ((64, 64), "tanh", 150, False, 0),
    ((64, 64), "silu", 7, True, 3),
    ((6, 5, 7, 4), "relu", 500, True, 0),
    ((8, 5), "identity", 16, False, 3),
    ((129, 33), "elu", 70, False, 0),
    ((128, 128), "silu", 40, True, 1),
]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator(DEVICE).manual_seed(seed)


def made(
    hidden: tuple[int, ...], activation: str, rows: int, weighted: bool
) -> tuple[MLPPolicy, Targets]:
    net, targets = nets(hidden, activation, rows, weighted)
    return net.to(DEVICE), moved(targets, torch.float32)


def moved(targets: Targets, dtype: torch.dtype) -> Targets:
    def move(value: Tensor | None) -> Any:
        return None if value is None else value.to(DEVICE, dtype)

    return Targets(*map(move, (targets.obs, targets.values, targets.weights)))


@pytest.mark.parametrize(("hidden", "activation", "rows", "weighted", "grid"), CASES)
def test_gradient(hidden, activation, rows, weighted, grid) -> None:
    """Error against float64 at most twice that of the float32 reference, plus epsilon."""
    net, targets = made(hidden, activation, rows, weighted)
    fit, single = CudaFit(net, targets, grid=grid), ReferenceFit(net, targets)
    loss, g = fit.gradient()
    reference_loss, reference_g = single.gradient()
    exact_loss, exact_g = ReferenceFit(net.double(), moved(targets, torch.float64)).gradient()
    no_worse(g, reference_g, exact_g, CRITIC_GRADIENT, "gradient")
    loss_no_worse(loss, reference_loss, exact_loss)


def twins(**options: Any) -> tuple[Critic, Critic]:
    """A critic for the kernels and its equal for plain PyTorch."""
    hidden, activation = options.pop("hidden", (16, 16)), options.pop("activation", "tanh")
    ours, theirs = (
        Critic(3, hidden, activation, backend=backend, device=DEVICE, **options)
        for backend in ("cuda", "reference")
    )
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def rows(count: int = 600) -> tuple[Tensor, Tensor]:
    obs, returns = problem(count)
    return obs.to(DEVICE), returns.to(DEVICE)


@pytest.mark.parametrize(
    ("hidden", "activation", "count", "minibatch"),
    [
        ((64, 64), "tanh", 33, 128),
        ((), "elu", 100, 99),
        ((7,), "gelu", 20, 3),
        ((16, 16), "silu", 300, 200),  # several tiles a block
        ((130, 20), "relu", 100, 40),
    ],
)
def test_adam_equals_the_reference(hidden, activation, count, minibatch) -> None:
    obs, returns = rows(count)
    weights = torch.linspace(0.0, 2.0, count, device=DEVICE)  # the first row does not count
    options = {"hidden": hidden, "activation": activation, "minibatch": minibatch, "epochs": 2}
    ours, theirs = twins(**options)
    for seed in range(2):
        info = ours.fit(obs, returns, weights, generator=seeded(seed))
        wanted = theirs.fit(obs, returns, weights, generator=seeded(seed))
        assert (info.steps, info.backend) == (wanted.steps, "cuda")
        torch.testing.assert_close(info.loss, wanted.loss, **SAME_LOSS)
    assert_same_fit(ours, theirs)


def test_large_minibatches_take_large_tiles() -> None:
    obs, returns = rows(400)
    ours, theirs = twins(minibatch=300, epochs=1)
    with small_device(multiprocessors=2):
        ours.fit(obs, returns, generator=seeded(0))
    theirs.fit(obs, returns, generator=seeded(0))
    torch.testing.assert_close(ours.theta, theirs.theta, **SAME_THETA)


@pytest.mark.parametrize("method", ["adam", "gauss_newton"])
def test_weights_that_do_not_fit_on_chip_are_streamed(method: str) -> None:
    obs, returns = rows(60)
    options: dict[str, Any] = {"method": method, "steps": 1, "epochs": 1, "minibatch": 32}
    ours, theirs = twins(hidden=(100, 100), damping=0.1, cg_iterations=3, **options)
    with small_device(multiprocessors=2, shared_kib=60):
        ours.fit(obs, returns, generator=seeded(0))
    theirs.fit(obs, returns, generator=seeded(0))
    torch.testing.assert_close(ours.theta, theirs.theta, rtol=1e-3, atol=1e-4)


def test_gauss_newton_equals_the_reference() -> None:
    options = {"method": "gauss_newton", "fraction": 0.5, "damping": 0.1, "cg_iterations": 5}
    ours, theirs = twins(steps=1, **options)  # conjugate gradient amplifies rounding
    obs, returns = rows(200)
    for seed in range(2):
        info = ours.fit(obs, returns, torch.ones(200, device=DEVICE), generator=seeded(seed))
        wanted = theirs.fit(obs, returns, generator=seeded(seed))
        assert info.steps == wanted.steps == 1 and info.backend == "cuda"
        torch.testing.assert_close(info.loss, wanted.loss, **SAME_SOLVED_LOSS)
    torch.testing.assert_close(ours.values(obs), theirs.values(obs), **SAME_SOLVED_VALUES)


def test_gauss_newton_stops_where_no_step_is_better() -> None:
    """At the minimum of a linear net the first search finds nothing, and nothing moves again."""
    obs, returns = rows(50)
    ours, theirs = twins(hidden=(), method="gauss_newton", steps=3, fraction=1.0, damping=0.0)
    ours.fit(obs, returns, generator=seeded(0))
    for critic in (ours, theirs):
        critic.load_state_dict(ours.state_dict())
        before = critic.theta.clone()
        info = critic.fit(obs, returns, generator=seeded(1))
        assert info.steps <= 1 and float(info) >= 0
        torch.testing.assert_close(critic.theta, before, rtol=1e-4, atol=1e-5)


def test_a_search_that_finds_nothing_leaves_the_generator_where_the_reference_does() -> None:
    """The host's fit ends there, the device's goes on: both draw for every step."""
    ours, theirs = twins(hidden=(), method="gauss_newton", steps=3)
    generators = [seeded(0), seeded(0)]
    for critic, generator in zip((ours, theirs), generators, strict=True):
        with torch.no_grad():  # both at the minimum: the outputs are the normalised targets
            critic.net.net[-1].weight.zero_()
        info = critic.fit(rows(50)[0], torch.ones(50, device=DEVICE), generator=generator)
        assert info.steps == 0
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


@pytest.mark.parametrize("order", [(0, 0, 0.0), (2, 3, 0.0)])
@pytest.mark.parametrize("method", ["adam", "gauss_newton"])
def test_schedules_change_no_bit(method: str, order: tuple[int, int, float]) -> None:
    obs, returns = rows(100)
    options = {"method": method, "steps": 1, "epochs": 1, "minibatch": 70, "cg_iterations": 3}
    first, second = twins(**options)
    second.backend = "cuda"
    loss = first.fit(obs, returns, generator=seeded(0)).loss
    schedule(*order)
    assert torch.equal(loss, second.fit(obs, returns, generator=seeded(0)).loss)
    assert torch.equal(first.theta, second.theta) and torch.equal(first.moments, second.moments)


def test_a_minibatch_takes_two_grid_barriers() -> None:
    if not EMULATED:
        pytest.skip("the emulator counts them")
    _, targets = made((8,), "tanh", 60, False)
    emulator = Emulator()
    counts = []
    for epochs in (1, 3):
        critic = Critic(11, (8,), minibatch=20, epochs=epochs, backend="cuda", device=DEVICE)
        emulator.grid_barriers()
        critic.fit(targets.obs, targets.values, generator=seeded(0))
        counts.append(emulator.grid_barriers())
    assert counts[1] - counts[0] == 2 * 2 * 3 and counts[0] == 2 * 3 + 2


@pytest.mark.parametrize("method", ["adam", "gauss_newton"])
@pytest.mark.parametrize("sync", [True, False])
def test_values_that_are_not_finite_move_nothing(method: str, sync: bool) -> None:
    obs, returns = rows(60)
    critic, _ = twins(method=method, steps=1, cg_iterations=2)
    critic.fit(obs, returns, generator=seeded(0))
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    obs[7, 1] = torch.nan
    if sync:
        with pytest.raises(ValueError, match="obs: expected finite values, got a loss of nan"):
            critic.fit(obs, returns, generator=seeded(0))
    else:
        assert critic.fit(obs, returns, generator=seeded(0), sync=False).loss.isnan()
        before.pop("_extra_state")  # what the host counts goes on
    after = critic.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_what_it_cannot_fit_is_refused() -> None:
    obs, returns = rows(4)
    wide = Critic(3, (4100,), method="gauss_newton", backend="cuda", device=DEVICE)
    with pytest.raises(BackendUnavailable, match=r"can fit this critic, got: .*up to 4096 wide"):
        wide.fit(obs, returns)
    double = Critic(3, (8,), backend="cuda", device=DEVICE).double()
    with pytest.raises(BackendUnavailable, match="expected float32"):
        double.fit(obs.double(), returns.double())
    wide.backend = "auto"
    assert wide.fit(obs, returns, generator=seeded(0)).backend in ("cpu", "reference")
