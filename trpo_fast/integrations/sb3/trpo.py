"""``TRPO``: sb3-contrib's class with ``train()`` computed by this package."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.trpo.trpo import TRPO as Sb3TRPO
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.utils import explained_variance

from ..._base.choices import Backend
from ..._base.options import KernelSettings
from ...core.batch import Batch
from ...policy.net import MLPPolicy
from ...policy.wrappers import tell_once
from ..step import PolicyStep, Search
from .acting import acting
from .critic import fit_critic
from .draws import Generators
from .module import module_of
from .parts import actor_of, features
from .update import Actor, policy_step

_HOOKS = ("_compute_actor_grad", "hessian_vector_product")  # whoever has their own means them


class TRPO(Sb3TRPO):
    """sb3-contrib's ``TRPO`` with the update and the critic's fit in compiled code.

    ``train()`` logs the same as theirs, draws the same random numbers and moves the same parameters
    up to rounding. Rollouts are theirs bit for bit, of fewer operators. Fully connected policies go
    through the kernels, those with convolutions through the reference backend. gSDE, other layers
    and classes with a ``hessian_vector_product`` of their own are trained by the inherited
    ``train()``. Nothing of this class is in a saved zip.

    >>> from trpo_fast.integrations.sb3 import TRPO
    >>> model = TRPO("MlpPolicy", "Pendulum-v1", seed=0).learn(10_000)
    """

    backend: ClassVar[Backend] = KernelSettings.backend  # of what is fully connected

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        """sb3's own loop, with the policy in fewer operators where it is a stock one."""
        with acting(self.policy):
            return super().collect_rollouts(*args, **kwargs)

    def train(self) -> None:
        """Update policy and values with what the rollout buffer holds."""
        actor = self._actor()
        steps = None if actor is None else self._policy_steps(actor)
        if actor is None or steps is None:
            return super().train()
        losses = fit_critic(
            self.policy,
            self.rollout_buffer,
            list(actor.parameters()),
            epochs=self.n_critic_updates,
            batch_size=self.batch_size,
            backend=self.backend,
        )
        self._n_updates += 1
        self._record(steps, losses)

    def _actor(self) -> Actor | None:
        """The actor as something to differentiate here; None if the inherited ``train()`` is to."""
        for name in _HOOKS:
            if getattr(getattr(self, name), "__func__", None) is not getattr(Sb3TRPO, name):
                return None
        return actor_of(self.policy) or module_of(self.policy)

    def _policy_steps(self, actor: Actor) -> list[PolicyStep] | None:
        """The policy's part of ``train()``; None, with the generators as they were, if the module
        turns out to be none for the reference backend (dropout, batch normalisation, ...).
        """
        self.policy.set_training_mode(True)
        before = Generators(self.device)
        try:
            steps = [
                policy_step(actor, self._batch(actor, rows), self._search())
                for rows in self.rollout_buffer.get(batch_size=None)
            ]
        except (ValueError, RuntimeError) as error:
            if isinstance(actor, MLPPolicy):
                raise
            before.restore()
            tell_once(self.policy, f"{error}; sb3-contrib's own train() serves it")
            return None
        self._update_learning_rate(self.policy.optimizer)
        self.policy.optimizer.zero_grad()
        return steps

    def _search(self) -> Search:
        return Search(
            max_kl=self.target_kl,
            damping=self.cg_damping,
            iterations=self.cg_max_steps,
            ratio=self.line_search_shrinking_factor,
            steps=self.line_search_max_iter,
            backend=self.backend,
        )

    def _batch(self, actor: Actor, rows: RolloutBufferSamples) -> Batch:
        """Every ``sub_sampling_factor``-th of the rows, with advantages as the actor sees them."""
        every = slice(None, None, self.sub_sampling_factor if self.sub_sampling_factor > 1 else 1)
        observations = rows.observations
        if isinstance(observations, dict):
            observations = {key: value[every] for key, value in observations.items()}
        else:
            observations = observations[every]
        actions, advantages = rows.actions[every], rows.advantages[every]
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        elif isinstance(self.action_space, spaces.MultiDiscrete):
            actions = actions.long()
        if self.normalize_advantage:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        if isinstance(actor, MLPPolicy):
            obs = features(self.policy, observations, self.policy.pi_features_extractor)
        else:
            obs = actor.packed(self.policy, observations)
        return Batch(obs, actions, advantages, rows.old_log_prob[every])

    def _record(self, steps: list[PolicyStep], losses: list[float]) -> None:
        """What sb3's ``train()`` logs, under its names."""
        buffer = self.rollout_buffer
        record = self.logger.record
        record("train/policy_objective", np.mean([step.objective for step in steps]))
        record("train/value_loss", np.mean(losses))
        record("train/kl_divergence_loss", np.mean([step.kl for step in steps]))
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        record("train/explained_variance", explained)
        record("train/is_line_search_success", np.mean([step.success for step in steps]))
        if hasattr(self.policy, "log_std"):
            record("train/std", torch.exp(self.policy.log_std).mean().item())
        record("train/n_updates", self._n_updates, exclude="tensorboard")
