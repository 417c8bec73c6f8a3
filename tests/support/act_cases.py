"""What the tests of acting share: nets and rows, room for the outputs, and comparisons."""

from __future__ import annotations

from collections.abc import Callable

import torch
from cases import HEADS
from torch import Tensor

from trpo_fast import MLPPolicy
from trpo_fast.learner.actor import ActTensors, ModuleActor
from trpo_fast.learner.critic import Critic

Outputs = tuple[Tensor, Tensor, Tensor]
# Float32 on both sides: rounding of a few layers, in another order.
AS_THE_MODULES = {"rtol": 2e-5, "atol": 2e-6}


def make(
    head: str, hidden: tuple[int, ...] = (8, 5), activation: str = "tanh", obs_dim: int = 5
) -> tuple[MLPPolicy, Critic]:
    torch.manual_seed(3)
    policy = MLPPolicy(obs_dim, HEADS[head](), hidden, activation, output_gain=1.0)
    critic = Critic(obs_dim, hidden[:1] or (7, 3), activation)
    with torch.no_grad():
        for p in (*policy.parameters(), *critic.net.parameters()):
            p.add_(0.1 * torch.randn(p.shape))
        critic.mean.fill_(3.0)
        critic.std.fill_(2.5)
    return policy, critic


def room(policy: MLPPolicy, count: int) -> Outputs:
    kind = torch.int64 if policy.head.nvec else torch.float32
    return (
        torch.zeros(count, *policy.head.action_shape, dtype=kind),
        torch.zeros(count),
        torch.zeros(count),
    )


def assert_equal(got: Outputs, want: Outputs) -> None:
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, **AS_THE_MODULES)


def check_follows(kind: type, policy: MLPPolicy, critic: Critic) -> None:
    """Values written in place, a loaded state, and parameters that moved to another buffer; then
    other parameters and modules.
    """
    device = critic.mean.device
    obs = torch.randn(4, 5, device=device)
    actor = kind(policy, critic, torch.Generator(device))
    out, wanted = ([tensor.to(device) for tensor in room(policy, 4)] for _ in range(2))
    state = {name: value + 0.1 for name, value in policy.state_dict().items()}
    changes = (
        lambda: policy.load_state_dict(state),
        lambda: [p.data.mul_(0.5) for p in policy.parameters()],
        lambda: policy.double().float(),
        lambda: critic.mean.fill_(-4.0),
        *replaced(policy, critic),
    )
    for change in changes:
        change()
        modules = ModuleActor(policy, critic, torch.Generator(device))
        for each, tensors in ((actor, out), (modules, wanted)):
            each.generator.manual_seed(7)
            each.act(ActTensors(obs, None, *tensors))
        assert_equal(out, wanted)
        torch.testing.assert_close(actor.values(obs), critic.values(obs), **AS_THE_MODULES)


def replaced(policy: MLPPolicy, critic: Critic) -> list[Callable[[], object]]:
    """Ways to put other parameters and modules into nets of (8, 5) and (8,)."""

    def linear(*widths: int) -> torch.nn.Linear:
        return torch.nn.Linear(*widths).to(next(policy.parameters()))

    state = {name: value + 0.1 for name, value in policy.state_dict().items()}
    return [
        lambda: policy.load_state_dict(state, assign=True),
        lambda: setattr(policy.net[0], "weight", linear(5, 8).weight),
        lambda: setattr(policy.net[2], "bias", linear(8, 5).bias),
        lambda: policy.net.__setitem__(2, linear(8, 5)),
        lambda: setattr(critic.net.net[0], "weight", linear(5, 8).weight),
    ]
