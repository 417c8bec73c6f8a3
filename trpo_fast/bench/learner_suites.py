"""The suites of the rest of a learner.

act       one step of ENVS environments: actions, log-probabilities and values
critic_M  Adam on minibatches of M rows against sb3's loop, which has 128 in both; the rate and the
          epochs are such that the loss is no higher (benchmarks/critic_loss.py)
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..backends.support import family_support
from ..learner.actor import ActTensors, ModuleActor
from ..learner.actor_cpu import NativeActor
from ..learner.actor_cuda import CudaActor
from ..learner.critic import Critic
from ..learner.value_net import ValueNet, moved
from ..policy.flat import write_params
from ..policy.net import MLPPolicy
from . import opponents
from .cases import Case, Workload, make_workload
from .suite import GRAPH, Suite, Timed, as_timed, kernels_of
from .update_suites import make_setup

ENVS = 8
WARM_FITS = 5
SB3_MINIBATCH, SB3_EPOCHS = 128, 10
FITS: dict[int, dict[str, Any]] = {
    128: {"learning_rate": 1e-3, "epochs": 10},
    1024: {"learning_rate": 4e-3, "epochs": 20},
}
SHUFFLES = 5  # that the final loss is a mean over
ACTORS: dict[str, Any] = {"cpu": NativeActor, "cuda": CudaActor, "reference": ModuleActor}


def _critic(work: Workload, minibatch: int = SB3_MINIBATCH, backend: Any = "reference") -> Critic:
    """A critic of the policy's widths with weights drawn from a fixed seed, nothing normalised."""
    torch.manual_seed(1)
    critic = Critic(
        work.case.obs_dim,
        work.case.hidden,
        minibatch=minibatch,
        **FITS[minibatch],
        backend=backend,
        device=work.obs.device,
    )
    return critic.to(work.obs.dtype)


def _critic_params(net: MLPPolicy | ValueNet) -> list[Tensor]:
    return [p.detach().clone() for p in moved(net)]


def _exact_act(work: Workload, actions: Tensor) -> Tensor:
    """log-probabilities of the actions that were drawn, and values, in float64."""
    exact = work.double()
    critic, policy = _critic(work), exact.policy
    values = critic.net.double()(exact.obs).mean[:, 0]
    actions = actions.double() if policy.head.kind == "gaussian" else actions
    with torch.no_grad():
        log_probs = policy.head.log_prob(policy.distribution_params(exact.obs), actions)
    return torch.cat([log_probs, values.detach()])


def _own_act(work: Workload, backend: str, precision: str, iterations: int) -> Timed:
    critic, generator = _critic(work), torch.Generator(work.obs.device)
    actor = ACTORS[kernels_of(backend)](work.policy, critic, generator)
    assert work.batch.actions is not None
    actions = torch.empty_like(work.batch.actions)
    log_probs, values = torch.empty(2, work.rows, device=work.obs.device)

    tensors = ActTensors(work.obs, None, actions, log_probs, values)
    call = as_timed(backend, actor.bind(tensors), generator)  # bound once, as a collector does

    def result() -> Tensor:
        call()
        return torch.cat([log_probs, values])

    return Timed(call, result, exact=lambda _: _exact_act(work, actions))


def _opponent_act(name: str, work: Workload, precision: str, iterations: int) -> Timed:
    setup = make_setup(work)
    opponent = opponents.ACT_OPPONENTS[name](setup, _critic_params(_critic(work).net))

    def result() -> Tensor:
        _, values, log_probs = opponent.act()
        return torch.cat([log_probs, values[:, 0]])

    def exact(_: Tensor) -> Tensor:
        assert opponent.actions is not None
        return _exact_act(work, opponent.actions)

    return Timed(opponent.act, result, exact=exact)


def _returns(work: Workload, drift: float = 0.0) -> Tensor:
    """A smooth function of the observation plus noise, of mean 0 and variance 1."""
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(work.case.obs_dim, generator=generator) / work.case.obs_dim**0.5
    noise = 0.3 * torch.randn(work.rows, generator=generator)
    returns = torch.sin(2.0 * work.obs.float().cpu() @ direction + drift) + noise
    return ((returns - returns.mean()) / returns.std(unbiased=False)).to(work.obs)


@functools.lru_cache(maxsize=1)
def _warm_weights(case: Case, rows: int, device: str) -> Tensor:
    work = make_workload(case, device, rows)
    critic, generator = _critic(work), torch.Generator(device).manual_seed(4)
    earlier = _returns(work, drift=0.3)
    for _ in range(WARM_FITS):
        critic.fit(work.obs, earlier, generator=generator)
    return critic.theta


def _warm_theta(work: Workload) -> Tensor:
    """Weights fitted to the returns of an earlier policy: a critic in the middle of training
    follows a target that moves, and that is the fit to time.
    """
    return _warm_weights(work.case, work.rows, work.obs.device.type).to(work.obs)


class _Fit:
    """One fit of our critic, from the same weights and the same shuffles every time."""

    def __init__(self, work: Workload, minibatch: int, backend: str = "reference") -> None:
        self.work, self.returns = work, _returns(work)
        self.critic = _critic(work, minibatch, backend)
        write_params(self.critic.net, self.critic.theta, _warm_theta(work))
        self.start = self.critic.theta.clone()
        self.generator = torch.Generator(work.obs.device)

    def reset(self, seed: int = 3) -> None:
        write_params(self.critic.net, self.critic.theta, self.start)
        self.critic.moments.zero_()
        self.critic.adam_steps = self.critic.fits = 0
        self.generator.manual_seed(seed)

    def fit(self) -> None:
        self.critic.fit(self.work.obs, self.returns, generator=self.generator)

    def values(self, seed: int = 3) -> Tensor:
        """Predictions after one fit."""
        self.reset(seed)
        self.fit()
        return self.critic.values(self.work.obs)


def final_loss(values: Callable[[int], Tensor], work: Workload) -> dict[str, float]:
    """Mean squared error over all rows, over SHUFFLES of them."""
    returns = _returns(work.double())
    losses = [float((values(s).double() - returns).square().mean()) for s in range(SHUFFLES)]
    error = statistics.stdev(losses) / SHUFFLES**0.5
    return {"mean": round(statistics.fmean(losses), 6), "standard_error": round(error, 6)}


def _own_critic(minibatch: int) -> Any:
    def own(work: Workload, backend: str, precision: str, iterations: int) -> Timed:
        fit = _Fit(work, minibatch, backend)
        timed = Timed(fit.fit, fit.values, fit.reset)
        timed.exact = lambda _: _Fit(work.double(), minibatch).values()
        timed.loss = final_loss(fit.values, work)
        return timed

    return own


def _opponent_critic(name: str, work: Workload, precision: str, iterations: int) -> Timed:
    def make(of: Workload) -> Any:
        weights = _critic_params(_Fit(of, SB3_MINIBATCH).critic.net)
        opponent = opponents.CRITIC_OPPONENTS[name]
        return opponent(make_setup(of), weights, _returns(of), SB3_EPOCHS, SB3_MINIBATCH)

    opponent = make(work)
    timed = Timed(opponent.fit, opponent.values, opponent.reset)
    timed.exact = lambda _: make(work.double()).values()
    timed.loss = final_loss(opponent.values, work)
    return timed


def _act_flops(case: Case, rows: int, iterations: int) -> int:
    """Policy and critic, which differ in their last map."""
    return case.forward_flops(rows) + _value_case(case).forward_flops(rows)


def _critic_flops(case: Case, rows: int, iterations: int) -> int:
    """Of sb3's epochs: if a contender needs more of them for its loss, they count for nothing."""
    value = _value_case(case)
    return SB3_EPOCHS * (value.forward_flops(rows) + value.gradient_flops(rows))


def _value_case(case: Case) -> Case:
    return Case(case.name, case.obs_dim, case.hidden, "gaussian", 1, case.full_rows, case.cpu_rows)


def _actors() -> list[tuple[str, str]]:
    return [*_modules(), (GRAPH, "fp32")]


def _modules() -> list[tuple[str, str]]:
    native = [("cpu", "fp32")] if family_support("act") else []
    return [("reference", "fp32"), *native, ("cuda", "fp32")]


def _critic_suite(minibatch: int) -> Suite:
    return Suite(
        f"critic_{minibatch}",
        _own_critic(minibatch),
        opponents.CRITIC_OPPONENTS,
        _opponent_critic,
        _critic_flops,
        _modules,
    )


ACT = Suite(
    "act",
    _own_act,
    opponents.ACT_OPPONENTS,
    _opponent_act,
    _act_flops,
    _actors,
    rows=ENVS,
)
CRITIC_128, CRITIC_1024 = _critic_suite(128), _critic_suite(1024)
