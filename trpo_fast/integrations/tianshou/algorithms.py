"""``NPG`` and ``TRPO``: tianshou's algorithms with the policy's step computed by this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from tianshou.algorithm.modelfree.npg import NPG as TianshouNPG
from tianshou.algorithm.modelfree.npg import NPGTrainingStats
from tianshou.algorithm.modelfree.trpo import TRPO as TianshouTRPO
from tianshou.algorithm.modelfree.trpo import TRPOTrainingStats
from tianshou.data import SequenceSummaryStats
from torch import Tensor

from ..._base.choices import Backend
from ..._base.options import KernelSettings
from ...core.batch import Batch
from ...policy.flat import flat_params
from ...policy.net import MLPPolicy
from ...policy.wrappers import tell_once
from ..step import PolicyStep, Search, problem_of, take_step, take_whole_step
from .parts import Actor, actor_of, observations_of

CG_ITERATIONS = 10  # tianshou's
# The actor, its observations, and the minibatch that they are of.
Step = Callable[[Actor, Tensor, Any], PolicyStep]


class _Loop:
    """The loop over minibatches that both algorithms have: a step of the policy, then steps of the
    critic as tianshou takes them.
    """

    policy: Any
    critic: Any
    optim: Any
    optim_critic_iters: int
    backend: ClassVar[Backend] = KernelSettings.backend  # of actors that are perceptrons
    _damping: float

    def _actor(self, batch: Any) -> Actor | None:
        """The policy as an actor; None, with a warning that says why, if tianshou is to serve."""
        like = next(self.policy.actor.parameters())
        obs = observations_of(batch.obs, like)
        try:
            if obs is None:
                raise ValueError("obs: expected an array, got structured observations")
            return actor_of(self.policy, obs)
        except (ValueError, RuntimeError) as error:
            tell_once(self, f"{error}; tianshou's own update serves it")
            return None

    def _search(
        self, actor: Actor, *, max_kl: float = 1.0, ratio: float = 1.0, steps: int = 0
    ) -> Search:
        backend = self.backend if isinstance(actor.policy, MLPPolicy) else "reference"
        return Search(max_kl, self._damping, CG_ITERATIONS, ratio, steps, backend)

    def _run(
        self, actor: Actor, batch: Any, batch_size: int | None, repeat: int, step: Step
    ) -> tuple[list[PolicyStep], list[float]]:
        """Every step of the policy, and the critic's losses."""
        steps, losses = [], []
        like = flat_params(actor.policy)
        for _ in range(repeat):
            for minibatch in batch.split(batch_size or -1, merge_last=True):
                obs = observations_of(minibatch.obs, like)
                assert obs is not None
                actor.read()
                steps.append(step(actor, obs, minibatch))
                actor.write()
                for _ in range(self.optim_critic_iters):
                    loss = F.mse_loss(minibatch.returns, self.critic(minibatch.obs).flatten())
                    self.optim.step(loss)
                losses.append(loss.item())
        return steps, losses


class NPG(_Loop, TianshouNPG):
    """tianshou's ``NPG`` with x = (F + damping I)^-1 g in compiled code; the policy's parameters
    move by ``trust_region_size`` x.

    >>> from trpo_fast.integrations.tianshou import NPG
    >>> algorithm = NPG(policy=policy, critic=critic, optim=AdamOptimizerFactory(lr=1e-3))
    """

    def _update_with_batch(
        self, batch: Any, batch_size: int | None, repeat: int
    ) -> NPGTrainingStats:
        actor = self._actor(batch)
        if actor is None:
            return super()._update_with_batch(batch, batch_size, repeat)
        actor_losses: list[float] = []

        def step(actor: Actor, obs: Tensor, rows: Any) -> PolicyStep:
            actions, advantages = actor.actions(rows.act), rows.adv.flatten()
            with torch.no_grad():
                log_prob = actor.policy(obs).log_prob(actions)
            actor_losses.append(-(log_prob * advantages).mean().item())
            problem = problem_of(actor.policy, Batch(obs, actions, advantages), self._damping)
            return take_whole_step(problem, self._search(actor), self.trust_region_size)

        steps, losses = self._run(actor, batch, batch_size, repeat, step)
        return NPGTrainingStats(
            actor_loss=_summary(actor_losses),
            vf_loss=_summary(losses),
            kl=_summary([step.kl for step in steps]),
        )


class TRPO(_Loop, TianshouTRPO):
    """tianshou's ``TRPO`` with the policy's step in compiled code.

    Constructor, collectors, trainers and statistics are inherited. Actors that are perceptrons go
    through the kernels, others through the reference backend; what is no function of a row, and
    structured observations, are left to tianshou.

    >>> from trpo_fast.integrations.tianshou import TRPO
    >>> algorithm = TRPO(policy=policy, critic=critic, optim=AdamOptimizerFactory(lr=1e-3))
    """

    def _update_with_batch(
        self, batch: Any, batch_size: int | None, repeat: int
    ) -> TRPOTrainingStats:
        actor = self._actor(batch)
        if actor is None:
            return super()._update_with_batch(batch, batch_size, repeat)

        search = self._search(
            actor, max_kl=self.max_kl, ratio=self.backtrack_coeff, steps=self.max_backtracks
        )

        def step(actor: Actor, obs: Tensor, rows: Any) -> PolicyStep:
            log_probs = rows.logp_old.flatten()
            given = Batch(obs, actor.actions(rows.act), rows.adv.flatten(), log_probs)
            return take_step(problem_of(actor.policy, given, search.damping), search)

        steps, losses = self._run(actor, batch, batch_size, repeat, step)
        return TRPOTrainingStats(
            actor_loss=_summary([-step.before for step in steps]),
            vf_loss=_summary(losses),
            kl=_summary([step.kl for step in steps]),
            step_size=_summary([step.size for step in steps]),
        )


def _summary(values: list[float]) -> SequenceSummaryStats:
    return SequenceSummaryStats.from_sequence(values)
