"""``TRPO``: collect a rollout, estimate advantages, update the policy, fit the critic, repeat.

>>> agent = TRPO("Hopper-v5", num_envs=8, rows_per_update=2048, seed=0)
>>> agent.learn(1_000_000)
>>> action = agent.predict(obs)
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Never, Self, Unpack

from .._base.arguments import check_count, check_number
from .._base.choices import CriticMethod, PolicyKind
from .._base.rows import Rows
from .._base.seeds import derive
from .._base.threads import OneThread
from ..core.batch import Batch
from ..learner.critic import CriticInfo
from ..updates.info import UpdateInfo
from . import checkpoint, nets, parts
from .agent import EnvSource
from .agent_config import agent_config, check_nets, chosen_names, with_images
from .config import Config
from .critic_schedule import set_critic_rate
from .interrupts import Postponed
from .kl_schedule import TrustRegion
from .other_libraries import check_agent, check_callbacks, check_learn
from .own_nets import with_action_mode
from .predict import ActingAgent, sampler
from .record import Record, Times, progress
from .rollout import Rollout
from .rules import apply_rules, is_limited, make_penalty, raise_for_values
from .setting_types import Settings
from .state import pack, restore
from .targets import critic_rows, estimate, explained_variance, some_rows
from .vine import Vine

WINDOW = 100  # episodes that the reported mean return is over

Callback = Callable[["TRPO", Record], bool | None]


class TRPO(ActingAgent):
    """An agent: a policy, a critic, environments, and everything a checkpoint holds.

    ``env`` is a gymnasium id, a function that makes an environment, a gymnasium vector environment,
    or a tensor environment. ``policy`` is a module from rows of observations to a distribution (or
    a tuple that begins with it), a ``RecurrentPolicy``, or the kind of net that is made of the
    settings: "auto", "mlp", "cnn", "gru" or "lstm". ``critic`` is a module to values [N] or [N, 1],
    or how the usual one is fitted: "adam" or "gauss_newton". Settings, the fields of ``Config``,
    come from the environment's preset where not given, then from the defaults.
    """

    def __init__(
        self,
        env: EnvSource = "CartPole-v1",
        *more: Never,
        config: Config | None = None,
        policy: nn.Module | PolicyKind | None = None,
        critic: nn.Module | CriticMethod | None = None,
        env_options: dict[str, Any] | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        check_agent(env, more)
        parts.check_tensors(env)
        self.env_source, self.env_options = env, env_options or {}
        given = chosen_names(config, settings)
        self.config = config = agent_config(env, config, policy, critic, {**settings})
        self.device = parts.pick_device(config, env)
        torch.manual_seed(derive(config.seed, "weights"))  # what is drawn later, generators draw
        exploration = derive(config.seed, "exploration")
        self.generator = torch.Generator(self.device).manual_seed(exploration)
        self.steps, self.updates, self.episodes, self.restarts = 0, 0, 0, 0
        own, values = (net if isinstance(net, nn.Module) else None for net in (policy, critic))
        self.structured = nets.keeps_structure(config, own)
        self.envs = parts.make_envs(self)
        if own is None and config.policy == "auto" and nets.parts_of_envs(self.envs) is not None:
            self.config = config = with_images(config, given)
        check_nets(config, own)
        self.mask_width = nets.mask_width(self)
        self.policy = nets.make_policy(self) if own is None else own
        self.head = nets.head_that_fits(self)
        self.config = config = with_action_mode(config, self.head, given)
        self.critic = nets.make_critic(self, values)
        self.own_critic = None if values is None else type(values).__name__
        self.collector = parts.make_collector(self)
        self.penalty = make_penalty(config)
        self.trust_region = TrustRegion(config)
        self.reward_scaler = parts.make_scaler(self)
        self.recent_returns = deque(maxlen=WINDOW)
        self.recent_lengths = deque(maxlen=WINDOW)
        self.started = False
        self.backend = config.backend  # of the last update, once there was one
        self.vine = Vine(self) if config.sampling == "vine" else None
        self.sampler = sampler(config.seed, self.device)  # of predict, which trains nothing

    def learn(
        self,
        total_steps: int | None = None,
        *,
        callbacks: Callback | Iterable[Callback] = (),
        target_return: float | None = None,
        checkpoint_path: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 10,
        **unknown: Never,
    ) -> Self:
        """Train for ``total_steps`` more environment steps (in whole rollouts), or until the mean
        return of the last episodes reaches ``target_return``, or until a callback returns
        False (Python's or NumPy's; whatever else it returns goes on).

        With a ``checkpoint_path``, a checkpoint is there before the first update, after every
        ``checkpoint_every`` of them, and at the end; callbacks come before it. Ctrl-C then waits
        for the end of the update under way, which is saved before KeyboardInterrupt is raised; a
        second Ctrl-C raises it at once. Without a path the first one does.
        """
        check_learn(total_steps, unknown)
        goal = self.steps + check_number("total_steps", total_steps, least=0)
        if target_return is not None:
            check_number("target_return", target_return)
        check_count("checkpoint_every", checkpoint_every)
        callbacks = check_callbacks(callbacks)
        with Postponed(checkpoint_path is not None) as ctrl_c:
            self.start()
            fresh = self.updates == 0 or not os.path.exists(checkpoint_path or "")
            if checkpoint_path is not None and fresh:
                self.save(checkpoint_path)
            while self.steps < goal and not ctrl_c.pressed:
                record = self.train_once()
                # First the logs: a kill in between has the update done and logged again.
                answers = [callback(self, record) for callback in callbacks]
                if checkpoint_path is not None and self.updates % checkpoint_every == 0:
                    self.save(checkpoint_path)
                stop = any(isinstance(answer, bool | np.bool_) and not answer for answer in answers)
                if stop or self.reached(target_return):
                    break
            if checkpoint_path is not None:
                self.save(checkpoint_path)
        return self

    def train_once(self) -> Record:
        """One rollout and one update of everything; what happened, as a record. On a device the
        numbers are read once, at the end; the times before it are those of the launches.
        """
        self.start()
        begin = time.perf_counter()
        if self.vine is None:
            rollout = self.collect(wait=False)
            collected, env_seconds = time.perf_counter(), self.collector.env_seconds
            with OneThread():
                batch, returns, values = estimate(self, rollout)
            path, steps = batch, rollout.rows
        else:
            rollout, states = self.vine.collect()
            env_seconds = self.collector.env_seconds
            with OneThread():
                path, returns, values = estimate(self, rollout)
            batch, branched = self.vine.batch(rollout, states)
            steps = rollout.rows + branched
            self.steps += branched
            env_seconds += self.vine.env_seconds
            collected = time.perf_counter()
        max_kl = self.trust_region.limit(self.steps - steps)
        info = self.update(batch, max_kl)
        self.backend = info.backend
        updated = time.perf_counter()
        set_critic_rate(self.critic, self.config, self.steps - steps)
        critic = self.fit_critic(*critic_rows(self, rollout, path, returns))
        with OneThread():
            if self.normaliser is not None:
                self.normaliser.update(rollout.transitions(rollout.raw_obs))
            if rollout.view is not None:
                rollout.view.update(rollout.transitions(rollout.view.raw))
            explained = explained_variance(rollout, path, values, returns)
        if self.asynchronous:
            self._read(rollout, batch, info, critic)
        self.trust_region.update_radius(info, self.steps - steps)
        self.updates += 1
        end = time.perf_counter()
        return {
            **progress(self),
            **info.as_dict(),
            "max_kl": max_kl if is_limited(self.config) else math.nan,
            "explained_variance": float(explained),
            "critic_loss": float(critic),
            "critic_learning_rate": self.critic.learning_rate,
            "rows": len(batch),
            "collected": steps,
            **Times(begin, collected, updated, end, env_seconds).as_dict(steps),
        }

    def collect(self, *, wait: bool = True) -> Rollout:
        """The next rollout. Its steps are counted; so are its episodes, unless ``wait=False`` and
        they are still being computed on a device.
        """
        rollout = self.collector.collect()
        self.steps += rollout.rows
        if wait or not self.asynchronous:
            self._count_episodes(rollout)
        return rollout

    def _count_episodes(self, rollout: Rollout) -> None:
        rollout.read_episodes()
        self.episodes += len(rollout.returns)
        self.recent_returns.extend(rollout.returns)
        self.recent_lengths.extend(rollout.lengths)

    def _read(self, rollout: Rollout, batch: Batch, info: UpdateInfo, critic: CriticInfo) -> None:
        """Wait for an update that nothing has waited for, and raise what would have been raised
        on the way.
        """
        self._count_episodes(rollout)
        if info.reason in ("bad_values", "non_finite"):
            raise_for_values(self.policy, batch, self.config)
        if math.isnan(float(critic)):
            raise ValueError("returns: expected a finite loss of the critic, got nan")

    def update(
        self, batch: Batch, max_kl: float | None = None, *, sync: bool | None = None
    ) -> UpdateInfo:
        """Move the policy by the configured algorithm and number of updates, within ``max_kl``
        (the one of the settings); by default without waiting for a device.
        """
        max_kl = self.config.max_kl if max_kl is None else max_kl
        sync = not self.asynchronous if sync is None else sync
        return apply_rules(self.policy, batch, self.config, self.penalty, max_kl, sync=sync)

    def fit_critic(self, obs: Rows | Batch, returns: Tensor) -> CriticInfo:
        """Move the critic towards returns [N] at rows obs, or a random part of them. The rows of
        one with a memory are a ``Batch``.
        """
        if self.config.critic_rows < 1.0:
            with OneThread():
                obs, returns = some_rows(obs, returns, self.config.critic_rows, self.generator)
        sync = not self.asynchronous
        rows: Any = obs  # of the kind that this critic takes
        return self.critic.fit(rows, returns, generator=self.generator, sync=sync)

    def reached(self, target_return: float | None) -> bool:
        """Whether the last episodes are enough to tell, and their mean return is that much."""
        if target_return is None or len(self.recent_returns) < min(WINDOW, 20):
            return False
        return float(np.mean(self.recent_returns)) >= target_return

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything training goes on from; all or nothing."""
        checkpoint.save(path, self.state())

    def state(self) -> dict[str, Any]:
        """The agent as a tree that a checkpoint holds."""
        self.start()
        return pack(self)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        env: EnvSource | None = None,
        *,
        device: str | None = None,
        trust_env: bool = False,
        policy: nn.Module | None = None,
        critic: nn.Module | None = None,
        env_options: dict[str, Any] | None = None,
    ) -> Self:
        """The agent of a checkpoint, or of a run's directory. Give again: environments that a
        function made, as ``env``; without ``trust_env``, one named "module:Id", and ``env_options``
        with strings that may name a module or a file; and a ``policy`` or ``critic`` that was a
        module of your own, whose weights are then those of the file.
        """
        nets = {"policy": policy, "critic": critic}
        return restore(cls, path, env, device, trust_env, nets, env_options)

    def export(
        self, path: str | os.PathLike[str], *, single: bool = False, card: str | None = None
    ) -> None:
        """Write the policy as ``.pt2`` or ``.onnx``, for a batch or one observation, checked; and
        beside it a model card of this name, with the returns of ten episodes.
        """
        from .export import export

        export(self, path, single=single, card=card)
