"""Acting and valuing with a memory: the actor of a ``RecurrentPolicy``, and a critic of the same
form, which is fitted by Adam to minibatches of whole sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._base.choices import RecurrentKind
from .._base.guards import outside_autocast
from .._base.rows import Rows, one_tensor
from ..core import checks
from ..core.batch import Batch
from ..policy.heads import Gaussian
from ..policy.net import drawn_for
from ..policy.recurrent import RecurrentPolicy
from .actor import ActTensors, TorchActor
from .critic import Critic, CriticInfo
from .fits import AdamState, fit_adam
from .fits_reference import ReferenceFit
from .undo import finite_or_undone


class Memory(NamedTuple):
    """What nets remember of E copies: before a row, zeros where an episode starts, and after it."""

    starts: Tensor  # [E] bool
    before: Tensor  # [E, K]
    after: Tensor  # [E, K], written


class RecurrentActor(TorchActor):
    """Acts step by step. The states [E, K] of its copies are the policy's, and beside them the
    critic's, if that has any.
    """

    policy: RecurrentPolicy

    def __init__(
        self, policy: RecurrentPolicy, critic: Critic, generator: torch.Generator, **options: Any
    ) -> None:
        super().__init__(policy, critic, generator, **options)
        self.policy_size = policy.state_size
        self.state_size = self.policy_size + critic.state_size

    def bind(self, tensors: ActTensors) -> Callable[[], None]:
        """``act`` on rows with which episodes begin."""
        rows, like = len(tensors.obs), tensors.values
        states = like.new_zeros(2, rows, self.state_size)
        starts = torch.ones(rows, dtype=torch.bool, device=like.device)
        return self.remembering(tensors, Memory(starts, *states))

    def remembering(self, tensors: ActTensors, memory: Memory) -> Callable[[], None]:
        """``act`` on rows that follow others, and what is known of those."""
        self.recheck_nets()
        size, shown = self.policy_size, tensors.seen is not None
        found = (tensors.actions, tensors.log_probs, tensors.values, memory.after)
        into = (tensors.seen, *found) if shown else found

        def run(given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            obs, before = one_tensor(self.seen(given["obs"])), given["before"]
            starts = given["starts"]
            params, after = self.policy.step(obs, before[:, :size], starts, given.get("mask"))
            values, after_values = self.critic.step(obs, before[:, size:], starts)
            chosen = self.policy.head.sample(params, self.generator)
            log_probs = self.policy.head.log_prob(params, chosen)
            results = (chosen, log_probs, values, torch.cat([after, after_values], -1))
            return (obs, *results) if shown else results

        def act() -> None:
            given = {"obs": tensors.obs, "before": memory.before, "starts": memory.starts}
            if tensors.mask is not None:
                given["mask"] = tensors.mask
            self._performed(run, {n: t.to(self.device) for n, t in given.items()}, into)

        return act

    def values(self, obs: Tensor) -> Tensor:
        """Values [N] of observations [N, O] with which episodes begin."""
        return self.values_after(obs, obs.new_zeros(len(obs), self.state_size))

    @outside_autocast
    @torch.no_grad()
    def values_after(self, obs: Tensor, states: Tensor) -> Tensor:
        """Values [N] of observations [N, O] that follow rows which left states [N, K]."""
        given = states[:, self.policy_size :].to(self.device)
        rows = one_tensor(self.seen(obs.to(self.device)))
        found: Tensor = self.critic.step(rows, given)[0]
        return found.to(obs.device)


@dataclass(frozen=True)
class SequenceTargets:
    """What a recurrent net is fitted to: obs [S, T, O], starts [S, T], state [S, K], targets and
    weights [S, T].
    """

    obs: Tensor
    starts: Tensor
    state: Tensor
    values: Tensor
    weights: Tensor | None

    def rows(self, index: Tensor) -> SequenceTargets:
        """Some of the sequences [M]."""
        weights = None if self.weights is None else self.weights[index]
        obs, starts, state = self.obs[index], self.starts[index], self.state[index]
        return SequenceTargets(obs, starts, state, self.values[index], weights)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name."""
        return {name: t for name, t in vars(self).items() if t is not None}

    def of(self, given: Mapping[str, Tensor]) -> SequenceTargets:
        """The same with other tensors."""
        return replace(self, **{name: given[name] for name in self.tensors()})


class SequenceFit(ReferenceFit):
    """Plain PyTorch, whose rows are sequences."""

    net: Any
    targets: Any

    def _loss(self, targets: Any) -> Tensor:
        found = self.net.outputs(targets.obs, targets.starts, targets.state)[0]
        squares = (found.view(targets.values.shape) - targets.values).square()
        if targets.weights is None:
            return 0.5 * squares.mean()
        return 0.5 * (targets.weights * squares).sum() / targets.weights.sum().clamp_min(1e-30)


class RecurrentCritic(Critic):
    """A value function that remembers; its rows are the sequences of a ``Batch``, whose state is
    the critic's own.
    """

    def __init__(
        self,
        obs_dim: int,
        cell: RecurrentKind = "gru",
        width: int = 64,
        *,
        encoder: tuple[int, ...] = (),
        hidden: tuple[int, ...] = (),
        **options: Any,
    ) -> None:
        super().__init__(1, (), **options)
        if self.method != "adam":
            raise checks.fail("critic", "'adam' for a critic with a memory", repr(self.method))
        device, dtype = options.get("device"), options.get("dtype")
        with drawn_for(device):
            head = Gaussian(1)
        self._hold(
            RecurrentPolicy(
                obs_dim,
                head,
                cell,
                width,
                encoder=encoder,
                hidden=hidden,
                activation=options.get("activation", "tanh"),
                output_gain=1.0,
                dtype=dtype,
                device=device,
            )
        )

    @property
    def state_size(self) -> int:
        size: int = self.net.state_size
        return size

    def forward(self, obs: Rows | Batch) -> Tensor:
        """Predicted returns [N] for the rows of a ``Batch`` of sequences, with gradients."""
        rows = checks.check_rows(self.net, self.theta, _sequences(obs))
        shape = (-1, rows.sequence_length or 1)
        starts = None if rows.starts is None else rows.starts.view(shape)
        inputs = one_tensor(rows.obs).unflatten(0, shape)
        found = self.net.outputs(inputs, starts, rows.state)[0][:, 0]
        return torch.addcmul(self.mean, found, self.std)

    @outside_autocast
    @torch.no_grad()
    def step(
        self, obs: Tensor, state: Tensor, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        params, after = self.net.step(obs, state, starts)
        return torch.addcmul(self.mean, params[:, 0], self.std), after

    @outside_autocast
    def fit(
        self,
        obs: Rows | Batch,
        targets: Tensor,
        weights: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        sync: bool = True,
    ) -> CriticInfo:
        """Move the values of a ``Batch`` of sequences towards targets [N]; steps of Adam are taken
        on as many whole sequences as make a minibatch. weights [N] >= 0: of the rows, by default
        those of the batch.
        """
        theta = self.theta
        rows = checks.check_rows(self.net, theta, _sequences(obs)).without_padding()
        targets = checks.check_tensor("targets", targets, theta, (len(rows),))
        weights = rows.weights if weights is None else weights
        if weights is not None:
            weights = checks.check_tensor("weights", weights, theta, (len(rows),))
            targets = torch.where(weights > 0, targets, 0.0)
        if sync and not bool(targets.isfinite().all()):
            raise checks.fail("targets", "finite values", "others")

        def run() -> tuple[Tensor, int | Tensor]:
            return self._fit_sequences(rows, targets, weights, generator)

        return CriticInfo(*finite_or_undone(self, self.net, run, sync=sync), "reference")

    def _fit_sequences(
        self, rows: Batch, targets: Tensor, weights: Tensor | None, generator: Any
    ) -> tuple[Tensor, int | Tensor]:
        assert rows.sequence_length and rows.starts is not None and rows.state is not None
        self._renormalise(targets, weights)
        shape = (-1, rows.sequence_length)
        fitted = SequenceTargets(
            one_tensor(rows.obs).unflatten(0, shape),
            rows.starts.view(shape),
            rows.state,
            ((targets - self.mean) / self.std).view(shape),
            None if weights is None else weights.view(shape),
        )
        minibatch = max(1, self.minibatch // rows.sequence_length)
        loss = fit_adam(
            SequenceFit(self.net, fitted, capture=self.capture),  # type: ignore[arg-type]
            AdamState(self.moments[0], self.moments[1], self.adam_steps, self.taken),
            rows.state,
            epochs=self.epochs,
            minibatch=minibatch,
            learning_rate=self.learning_rate,
            generator=generator,
        )
        steps = self.epochs * -(-len(rows.state) // minibatch)
        self.adam_steps += steps
        return loss, steps


def _sequences(obs: Rows | Batch) -> Batch:
    if not isinstance(obs, Batch):
        raise checks.fail("obs", "a trpo_fast.Batch of sequences", type(obs).__name__)
    return obs
