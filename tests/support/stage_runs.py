"""Every stage on small tensors, prepared first and run later, for tests that change the form of the
tensors or what surrounds the run: each gives its numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from cases import UPDATES, Case
from cuda_support import DEVICE, to_device
from torch import Tensor

from trpo_fast import Batch, FisherOperator, MLPPolicy, flat_params
from trpo_fast.learner import advantage
from trpo_fast.learner.actor import ActTensors, ModuleActor
from trpo_fast.learner.actor_cpu import NativeActor
from trpo_fast.learner.actor_cuda import CudaActor
from trpo_fast.learner.critic import Critic
from trpo_fast.learner.normalise import ObservationNormaliser

ROWS = 40
MOVING = Case("gaussian", weights=True, rows=ROWS, dtype=torch.float32)
CHOOSING = Case("multicategorical", weights=True, masks=True, rows=ROWS, dtype=torch.float32)
ACTORS = {"cpu": NativeActor, "cuda": CudaActor, "reference": ModuleActor}

Hide = Callable[[Tensor], Tensor]  # the same numbers in another form
Run = Callable[[], list[Tensor]]


def made(case: Case, backend: str, hide: Hide) -> tuple[MLPPolicy, Batch]:
    policy = case.policy()
    batch = case.batch(policy)
    if backend == "cuda":
        policy, batch = policy.to(DEVICE), to_device(batch)
    given = {k: v for k, v in vars(batch).items() if isinstance(v, Tensor) and k != "action_mask"}
    return policy, replace(batch, **{name: hide(value) for name, value in given.items()})


def drawn(like: Tensor, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7)).to(like)


def solving(backend: str, hide: Hide) -> Run:
    policy, batch = made(CHOOSING, backend, hide)
    plain = drawn(flat_params(policy), flat_params(policy).numel())
    v, index = hide(plain), hide(torch.arange(0, ROWS, 2, device=plain.device))
    several = hide(torch.stack([plain, plain.flip(0)], 1))
    rows = {"weights": batch.weights, "action_mask": batch.action_mask, "backend": backend}

    def run() -> list[Tensor]:
        F = FisherOperator(policy, batch.obs, **rows)
        some = FisherOperator(policy, batch.obs, fvp_rows=index, **rows)
        found = F.solve(v)
        numbers = [found.x, found.quad, found.residual_norm, found.iterations]
        return [F @ v, F @ several, some @ v, F.solve(several).x, *numbers]

    return run


def updating(backend: str, hide: Hide) -> Run:
    pairs = [made(case, backend, hide) for case in (MOVING, CHOOSING)]
    start = [flat_params(policy).clone() for policy, _ in pairs]

    def run() -> list[Tensor]:
        numbers = []
        for update in UPDATES.values():
            for (policy, batch), theta in zip(pairs, start, strict=True):
                flat_params(policy).copy_(theta)
                stats = update(policy, batch, backend=backend).stats
                numbers += [stats, flat_params(policy).clone()]
        return numbers

    return run


def critic_of(backend: str, method: str = "adam") -> Critic:
    torch.manual_seed(5)
    device = DEVICE if backend == "cuda" else "cpu"
    return Critic(5, (8,), method=method, epochs=2, minibatch=16, backend=backend, device=device)


def fitting(backend: str, hide: Hide) -> Run:
    critics = [critic_of(backend, method) for method in ("adam", "gauss_newton")]
    like = critics[0].theta
    obs, targets = hide(drawn(like, ROWS, 5)), hide(drawn(like, ROWS))
    weights = hide(drawn(like, ROWS).abs())

    def run() -> list[Tensor]:
        numbers = []
        for critic in critics:
            generator = torch.Generator(like.device).manual_seed(1)
            for given in (weights, None):
                info = critic.fit(obs, targets, given, generator=generator)
                numbers += [info.loss, critic.theta.clone(), critic.mean, critic.std]
        return numbers

    return run


def acting(backend: str, hide: Hide) -> Run:
    """Writes to plain tensors; what it reads at every call may not be hidden."""
    if backend not in ACTORS:
        pytest.skip("another backend acts")
    policy, batch = made(CHOOSING, backend, lambda x: x)
    critic, generator = critic_of(backend), torch.Generator(batch.obs.device)
    normaliser = None if backend == "reference" else ObservationNormaliser(5)
    if normaliser is not None:
        normaliser.update(3 * drawn(torch.zeros(()), ROWS, 5) + 1)
        normaliser.shift, normaliser.scale = hide(normaliser.shift), hide(normaliser.scale)
    options = {} if normaliser is None else {"normaliser": normaliser}
    actor = ACTORS[backend](policy, critic, generator, **options)
    assert batch.actions is not None
    actions, (log_probs, values) = torch.empty_like(batch.actions), batch.obs.new_empty(2, ROWS)
    given = ActTensors(batch.obs, batch.action_mask, actions, log_probs, values)

    def run() -> list[Tensor]:
        generator.manual_seed(3)
        actor.act(given)
        return [actions.clone(), log_probs.clone(), values.clone(), actor.values(hide(batch.obs))]

    return run


def estimating(backend: str, hide: Hide) -> Run:
    like = torch.zeros((), device=DEVICE if backend == "cuda" else "cpu")
    rewards, values, following = (hide(part) for part in drawn(like, 3, 6, 5))
    done = drawn(like, 6, 5) > 1

    def run() -> list[Tensor]:
        arrays = (rewards, values, following, done)
        return [advantage.gae(*arrays, gamma=0.9, lam=0.8, backend=backend)]

    return run


WORK: dict[str, Callable[[str, Hide], Run]] = {
    "solve": solving,
    "update": updating,
    "fit": fitting,
    "act": acting,
    "gae": estimating,
}
