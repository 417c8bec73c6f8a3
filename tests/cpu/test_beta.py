"""The Beta head in the CPU kernels, over all concentrations that a net may ask for."""

from __future__ import annotations

import pytest
import torch
from exactness import relative_error

from trpo_fast import Batch, Beta, FisherOperator, MLPPolicy, flat_params, trpo_update
from trpo_fast.backends.registry import registry
from trpo_fast.core.oracle import metric_matrix

pytestmark = pytest.mark.skipif(not registry()["cpu"].machine_support(), reason="no native code")


def linear(low: float, high: float, rows: int = 64) -> tuple[MLPPolicy, torch.Tensor]:
    """A policy whose outputs are its observations [rows, 4], z from low to high."""
    policy = MLPPolicy(4, Beta(2), ())
    with torch.no_grad():
        policy.net[0].weight.copy_(torch.eye(4))
        policy.net[0].bias.zero_()
    generator = torch.Generator().manual_seed(0)
    return policy, low + (high - low) * torch.rand(rows, 4, generator=generator)


@pytest.mark.parametrize(("low", "high"), [(-4.0, 4.0), (-30.0, -5.0), (5.0, 100.0), (1e3, 1e5)])
def test_gradient_and_product_are_exact_to_float32(low: float, high: float) -> None:
    policy, z = linear(low, high)
    actions = policy.head.sample(z, torch.Generator().manual_seed(1))
    advantages = torch.randn(len(z), generator=torch.Generator().manual_seed(2))
    v = torch.randn(flat_params(policy).numel(), generator=torch.Generator().manual_seed(3))
    one = FisherOperator(policy, z[:1], damping=0.0, backend="cpu")
    got = one @ v
    # F = J' M J at one row: J v = V z + bias, and back.
    tangent = v[:16].view(4, 4).double() @ z[0].double() + v[16:].double()
    matrix = metric_matrix(policy.head, z[:1].double())[0]
    delta = matrix @ tangent
    wanted = torch.cat([torch.outer(delta, z[0].double()).flatten(), delta])
    assert relative_error(got, wanted) < 3e-6

    double = MLPPolicy(4, Beta(2), (), dtype=torch.float64)
    double.load_state_dict(policy.state_dict())
    many = Batch(z, actions, advantages)
    g = torch.ops.trpo_fast.gradient
    net = (policy.spec.widths, policy.spec.activation, policy.spec.head, policy.spec.nvec)
    ours, ours_stats = g(flat_params(policy), z, actions, advantages, *net, backend="cpu")
    exact, exact_stats = g(
        flat_params(double),
        *(t.double() for t in (many.obs, many.actions, many.advantages)),
        *net,
        backend="reference",
    )
    assert relative_error(ours, exact) < 3e-6
    assert relative_error(ours_stats[1:], exact_stats[1:]) < 3e-6  # the entropy


@pytest.mark.parametrize("shift", [1e-1, 1e-3])
def test_small_divergences_keep_their_digits(shift: float) -> None:
    """A KL of 1e-9 is a difference of terms near 1."""
    head, z = Beta(1), torch.linspace(-3.0, 3.0, 40).view(20, 2)
    old, new = z.double(), (z + shift).double()
    assert (
        relative_error(
            head.kl(old.float(), new.float()), head.kl(old.float().double(), new.float().double())
        )
        < 1e-6
    )


def test_an_update_on_the_kernels_is_the_references() -> None:
    ours, theirs = (linear(-1.0, 2.0) for _ in range(2))
    stats = []
    for (policy, z), backend in ((ours, "cpu"), (theirs, "reference")):
        actions = policy.head.sample(z, torch.Generator().manual_seed(1))
        advantages = torch.randn(len(z), generator=torch.Generator().manual_seed(2))
        info = trpo_update(policy, Batch(z, actions, advantages), backend=backend)
        assert info.accepted and 0 < info.kl <= 0.01
        stats.append(torch.tensor([info.kl, info.entropy, info.surrogate_after]))
    torch.testing.assert_close(stats[0], stats[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(flat_params(ours[0]), flat_params(theirs[0]), rtol=1e-4, atol=1e-5)
