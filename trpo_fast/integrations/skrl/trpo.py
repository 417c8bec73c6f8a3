"""``TRPO``: skrl's agent with ``update()`` computed by this package."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from skrl import config
from skrl.agents.torch.trpo import TRPO as SkrlTRPO
from skrl.agents.torch.trpo.trpo import compute_gae
from skrl.models.torch import CategoricalMixin
from torch import Tensor, nn

from ..._base.choices import Backend
from ..._base.options import KernelSettings
from ...core.batch import Batch
from ...core.modules import head_of
from ...policy.flat import flat_params, write_params
from ...policy.wrappers import tell_once
from ..step import PolicyStep, Search, problem_of, take_step
from .parts import ROLE, ActorModule, ActorNet, Inputs, actor_of, is_known

Rest = tuple[Tensor, Tensor, Tensor]  # actions [N, ...], advantages [N], log_probs [N]
BACKTRACK = 0.5  # skrl's: each trial is half of the one before


class TRPO(SkrlTRPO):
    """skrl's ``TRPO`` with the policy's step in compiled code.

    Constructor, configuration, memory, preprocessors, checkpoints and logs are inherited. Models
    whose ``compute`` is a multilayer perceptron go through the kernels, others through the
    reference backend; categorical policies are taken as well. Models that are no function of a row
    and several processes are left to skrl's ``update()``.

    >>> from trpo_fast.integrations.skrl import TRPO
    >>> agent = TRPO(models=models, memory=memory, cfg=cfg, **spaces)
    """

    backend: ClassVar[Backend] = KernelSettings.backend  # of models that are perceptrons

    def update(self, *, timestep: int, timesteps: int) -> None:
        """Update policy and values with what the memory holds."""
        if config.torch.is_distributed or not self._can_step():
            return super().update(timestep=timestep, timesteps=timesteps)
        self._estimate()
        step = self._policy_step()
        loss = self._fit_values()
        self.track_data("Loss / Policy loss", step.before)
        self.track_data("Loss / Value loss", loss)
        if not isinstance(self.policy, CategoricalMixin):
            std = self.policy.distribution(role=ROLE).stddev.mean().item()
            self.track_data("Policy / Standard deviation", std)
        if self.value_scheduler:
            rate = self.value_scheduler.get_last_lr()[0]
            self.track_data("Learning / Value learning rate", rate)

    def _inputs(self, observations: Tensor, states: Tensor | None, **options: Any) -> Inputs:
        """Preprocessed inputs of a model; ``options`` are the preprocessors'."""
        given = {
            "observations": self._observation_preprocessor(observations, **options),
            "states": self._state_preprocessor(states, **options),
        }
        return {key: value for key, value in given.items() if value is not None}

    @torch.no_grad()
    def _can_step(self) -> bool:
        """Whether the policy is one for an update here, by a look at two rows; a warning says why
        it is not.
        """
        if not is_known(self.policy):
            tell_once(self, "policy: expected GaussianMixin or CategoricalMixin; skrl serves it")
            return False
        names = ("observations", "states")
        rows = self.memory.sample_by_index(names=list(names), indexes=[0, 1])[0]
        inputs = self._inputs(*rows)
        if actor_of(self.policy, inputs) is not None:
            return True
        module = ActorModule(self.policy, inputs)
        try:
            head_of(module, Batch(module.packed(inputs)))
        except (ValueError, RuntimeError) as error:
            tell_once(self, f"{error}; skrl's own update() serves it")
            return False
        return True

    @torch.no_grad()
    def _estimate(self) -> None:
        """Returns and advantages, as skrl has them."""
        inputs = self._inputs(self._current_next_observations, self._current_next_states)
        self.value.enable_training_mode(False)
        last_values, _ = self.value.act(inputs, role="value")
        self.value.enable_training_mode(True)
        last_values = self._value_preprocessor(last_values, inverse=True)
        memory = self.memory
        names = ("rewards", "terminated", "truncated", "values")
        returns, advantages = compute_gae(
            **{name: memory.get_tensor_by_name(name) for name in names},
            last_values=last_values,
            discount_factor=self.cfg.discount_factor,
            lambda_coefficient=self.cfg.gae_lambda,
            time_limit_bootstrap=self.cfg.time_limit_bootstrap,
        )
        values = memory.get_tensor_by_name("values")
        memory.set_tensor_by_name("values", self._value_preprocessor(values, train=True))
        memory.set_tensor_by_name("returns", self._value_preprocessor(returns, train=True))
        memory.set_tensor_by_name("advantages", advantages)

    def _policy_step(self) -> PolicyStep:
        rows = self.memory.sample(
            names=self._tensors_names_policy, batch_size=len(self.memory), mini_batches=1
        )[0]
        observations, states, actions, log_probs, advantages = rows
        inputs = self._inputs(observations, states, train=True)
        if isinstance(self.policy, CategoricalMixin):
            actions = actions.long().flatten()
        rest = (actions, advantages.flatten(), log_probs.flatten())
        step = self._step_within_limits(inputs, rest)
        if step is None:
            module = ActorModule(self.policy, inputs)
            search = replace(self._search(), backend="reference")
            step = _step(module, Batch(module.packed(inputs), *rest), search)
        with torch.no_grad():  # whose standard deviation is logged
            self.policy.act({key: value[:1] for key, value in inputs.items()}, role=ROLE)
        return step

    def _step_within_limits(self, inputs: Inputs, rest: Rest) -> PolicyStep | None:
        """By the kernels; None, with the policy as it was, if it is none for them, or if the step
        would pass its limits of standard deviations.
        """
        few = {key: value[:2] for key, value in inputs.items()}
        net: ActorNet | None = actor_of(self.policy, few)
        if net is None or not net.within_limits():
            return None
        theta = flat_params(net.policy)
        before = theta.clone()
        step = _step(net.policy, Batch(net.packed(inputs), *rest), self._search())
        if net.within_limits():
            return step
        write_params(net.policy, theta, before)
        return None

    def _search(self) -> Search:
        return Search(
            max_kl=self.cfg.max_kl_divergence,
            damping=self.cfg.damping,
            iterations=self.cfg.conjugate_gradient_steps,
            ratio=BACKTRACK,
            steps=self.cfg.max_backtrack_steps,
            backend=self.backend,
            first=self.cfg.step_fraction,
            share=self.cfg.accept_ratio,
        )

    def _fit_values(self) -> float:
        """Their own loop; the mean loss."""
        cfg, total = self.cfg, 0.0
        for epoch in range(cfg.learning_epochs):
            minibatches = self.memory.sample(
                names=self._tensors_names_value,
                batch_size=len(self.memory),
                mini_batches=cfg.mini_batches,
            )
            for observations, states, returns in minibatches:
                inputs = self._inputs(observations, states, train=not epoch)
                predicted, _ = self.value.act(inputs, role="value")
                loss = cfg.value_loss_scale * F.mse_loss(returns, predicted)
                self.value_optimizer.zero_grad()
                loss.backward()
                if cfg.grad_norm_clip > 0:
                    nn.utils.clip_grad_norm_(self.value.parameters(), cfg.grad_norm_clip)
                self.value_optimizer.step()
                total += loss.item()
            if self.value_scheduler:
                self.value_scheduler.step()
        return total / (cfg.learning_epochs * cfg.mini_batches)


def _step(policy: nn.Module, batch: Batch, search: Search) -> PolicyStep:
    return take_step(problem_of(policy, batch, search.damping), search)
