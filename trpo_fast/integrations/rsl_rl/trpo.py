"""``TRPO``: rsl_rl's PPO with a trust-region step of the actor in the place of the clipped loss."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from rsl_rl.algorithms import PPO
from torch import Tensor, nn

from ..._base.threads import OneThread
from ...backends.support import choose
from ...core.batch import Batch
from ...learner.fit_backends import FITS, SUPPORTS, gauss_newton
from ...learner.fits import Targets
from ...policy.flat import flat_params, mark_written, write_params
from ...policy.wrappers import tell_once
from ...updates.info import UpdateInfo
from ...updates.natural import trpo_update
from .parts import ActorModule, actions_of, actor_of, check_actor, critic_of, follow
from .settings import sorted_settings


class TRPO(PPO):
    """Acts, records, bootstraps time-outs, saves and loads as PPO does; ``update()`` is one
    trust-region step of the actor on every row, then a fit of the critic.

    Settings are those of ``trpo_fast.trpo_update`` by name (``max_kl``, or PPO's ``desired_kl``;
    ``damping``, ``cg_iterations``, ``preconditioner``, ``backend``, ...) and PPO's for the rest.
    ``critic_method="adam"`` has the critic follow PPO's value loss over PPO's minibatches;
    "gauss_newton" fits it to the returns in ``critic_steps`` second-order steps.

    >>> cfg["algorithm"] = {"class_name": "trpo_fast.integrations.rsl_rl:TRPO", "max_kl": 0.01}
    >>> OnPolicyRunner(env, cfg, log_dir, device).learn(1000)
    """

    def __init__(self, actor: Any, critic: Any, storage: Any, **settings: Any) -> None:
        check_actor(actor)
        sorted_ = sorted_settings(settings)
        super().__init__(actor, critic, storage, **sorted_.ppo)
        self.step_settings, self.fit_settings = sorted_.step, sorted_.fit
        self.critic_method = sorted_.critic_method
        # Made here, so that the parameters lie in one buffer before torch.compile sees them.
        self._actor_net, self._critic_net = actor_of(self.actor), critic_of(self.critic)
        self._module = ActorModule(self.actor)
        if self.critic_method == "gauss_newton":
            if self._critic_net is None:
                tell_once(self, "critic: expected Linear and activations; it is fitted by Adam")
            if self.rnd:
                tell_once(self, "rnd_cfg: its predictor takes one step of Adam an update")

    def update(self) -> dict[str, float]:
        """One step of the actor and a fit of the critic on what the storage holds."""
        observations = self.storage.observations.flatten(0, 1)
        info = self._actor_step(observations)
        losses = self._fit_critic(observations)
        for model in (self._raw_actor, self._raw_critic, self.rnd):
            if model:
                model.update_normalization(observations)
        self._show_distribution(observations)
        self.storage.clear()
        return {
            **losses,
            "surrogate": -info.surrogate_after,
            "entropy": info.entropy,
            "kl": info.kl,
            "accepted": float(info.accepted),
            "backtracks": float(info.backtracks),
        }

    def _actor_step(self, observations: Any) -> UpdateInfo:
        """By the kernels where they have the model's net and its limits of std are far."""
        storage = self.storage
        advantages = storage.advantages.flatten()
        if self.normalize_advantage_per_mini_batch:  # the batch is the only one
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        actions = actions_of(self._raw_actor, storage.actions.flatten(0, 1))
        net = self._actor_net
        if net is not None and not net.policy.departure():
            seen = net.packed(observations)
            if net.read(seen):
                theta = flat_params(net.policy)
                before = theta.clone()
                info = trpo_update(
                    net.policy, Batch(seen, actions, advantages), **self.step_settings
                )
                if net.write(seen):
                    return info
                write_params(net.policy, theta, before)
                net.write(seen)
        batch = Batch(self._module.packed(observations), actions, advantages)
        settings = self.step_settings
        if settings["backend"] not in ("auto", "autograd"):
            settings = {**settings, "backend": "reference"}
        return trpo_update(self._module, batch, **settings)

    def _fit_critic(self, observations: Any) -> dict[str, float]:
        net = self._critic_net
        if self.critic_method == "adam" or net is None or net.departure():
            return self._fit_by_adam(self.num_learning_epochs, self.num_mini_batches)
        with torch.no_grad():
            seen = self._raw_critic.get_latent(observations)
        follow(net)
        targets = Targets(seen, self.storage.returns.flatten().to(seen))
        chosen = choose(
            self.step_settings["backend"], SUPPORTS, net, "gauss_newton", can="fit this critic"
        )
        with OneThread() if chosen in ("cpu", "cuda") else nullcontext():
            loss, _ = gauss_newton(
                FITS[chosen](net, targets),
                net,
                targets,
                self.step_settings["backend"],
                generator=None,
                **self.fit_settings,
            )
        mark_written(net)
        losses = {"value": 2.0 * float(loss)}  # the fits' is half of the mean square
        if self.rnd:
            losses["rnd"] = self._step_rnd(self.rnd.compute_loss(observations))
        return losses

    def _fit_by_adam(self, epochs: int, minibatches: int) -> dict[str, float]:
        """PPO's value loss over PPO's minibatches, and RND's loss on the same rows."""
        sums: dict[str, float] = {"value": 0.0, **({"rnd": 0.0} if self.rnd else {})}
        actors = [*self._raw_actor.parameters()]
        for batch in self.storage.mini_batch_generator(minibatches, epochs):
            loss = self._value_loss(batch)
            self.optimizer.zero_grad()
            (self.value_loss_coef * loss).backward()
            for p in actors:  # a shared encoder follows the actor alone
                p.grad = None
            nn.utils.clip_grad_norm_(self._raw_critic.parameters(), self.max_grad_norm)
            self.optimizer.step()
            sums["value"] += loss.item()
            if self.rnd:
                sums["rnd"] += self._step_rnd(self.rnd.compute_loss(batch.observations))
        return {name: total / (epochs * minibatches) for name, total in sums.items()}

    def _value_loss(self, batch: Any) -> Tensor:
        values = self.critic(batch.observations)
        squares = (values - batch.returns).square()
        if self.use_clipped_value_loss:
            limit = self.clip_param
            near = batch.values + (values - batch.values).clamp(-limit, limit)
            squares = torch.max(squares, (near - batch.returns).square())
        loss: Tensor = squares.mean()
        return loss

    def _step_rnd(self, loss: Tensor) -> float:
        self.rnd.optimizer.zero_grad()
        loss.backward()
        self.rnd.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def _show_distribution(self, observations: Any) -> None:
        """Have the actor hold the new distribution of a row, whose std the runner logs."""
        model = self._raw_actor
        model.distribution.update(model.mlp(model.get_latent(observations[:1])))
