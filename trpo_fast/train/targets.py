"""What an update learns from: a rollout's transitions with their advantages and returns.

The policy gradient of the discounted return weighs step t of an episode by gamma^t. Without
``discount_weights`` that factor is dropped, as nearly everyone does: every row counts as if its
episode began there, and late ones are learned from as much as early ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._base.arguments import fail
from .._base.rows import Rows, map_rows, one_tensor
from ..core.batch import Batch
from ..core.sequences import rows_of
from ..learner import advantage
from .agent import Agent
from .rollout import Rollout

LARGE = 1e12  # of smaller rewards it takes a million to make such returns


def estimate(agent: Agent, rollout: Rollout) -> tuple[Batch, Tensor, Tensor]:
    """(batch of N transitions, the critic's targets [N], its predictions [N]) on the policy's
    device.
    """
    if rollout.states is not None:
        return estimate_sequences(agent, rollout, rollout.states)
    config, device = agent.config, agent.device
    rewards, gains = _rewards_and_gains(agent, rollout)

    def flat(tensor: Tensor) -> Tensor:
        """[T, E, ...] to [N, ...] on the policy's device, reset rows dropped."""
        moved: Tensor = rollout.transitions(tensor).to(device)
        return moved

    returns, values = flat(gains + rollout.values), flat(rollout.values)
    if not agent.asynchronous:
        check_size(rewards, returns)
    advantages = returns if config.advantage == "returns" else flat(gains)
    agent.trust_region.update_share(advantages)
    weights = None
    if config.discount_weights:
        weights = advantage.discount_weights(flat(rollout.episode_steps()), config.gamma)
    if config.normalize_advantages:
        advantages = advantage.normalise(advantages, weights)
    mask = None if rollout.mask is None else flat(rollout.mask)
    obs = map_rows(lambda part: part.to(device), rollout.transitions(rollout.obs))
    actions, log_probs = flat(rollout.actions), flat(rollout.log_probs)
    batch = Batch(obs, actions, advantages, log_probs, weights, action_mask=mask)
    return batch, returns, values


def estimate_sequences(
    agent: Agent, rollout: Rollout, states: Tensor
) -> tuple[Batch, Tensor, Tensor]:
    """The same of a policy with a memory, states [T + 1, E, K]: rows are sequences of
    ``sequence_length`` steps, by default of the whole rollout; reset rows stay, with weight zero.
    """
    config, device = agent.config, agent.device
    rewards, gains = _rewards_and_gains(agent, rollout)
    length = config.sequence_length or len(rewards)

    def flat(tensor: Tensor) -> Tensor:
        return _in_sequences(tensor, length).to(device)

    returns, values = flat(gains + rollout.values), flat(rollout.values)
    kept = None if rollout.valid is None else flat(rollout.valid)
    weights = None if kept is None else kept.to(returns.dtype)
    if not agent.asynchronous:
        check_size(rewards, returns if kept is None else returns[kept])
    advantages = returns if config.advantage == "returns" else flat(gains)
    agent.trust_region.update_share(advantages if kept is None else advantages[kept])
    if config.discount_weights:
        discounts = advantage.discount_weights(flat(rollout.episode_steps()), config.gamma)
        weights = discounts if weights is None else weights * discounts
    if config.normalize_advantages:
        advantages = advantage.normalise(advantages, weights)
    assert rollout.starts is not None and agent.recurrent is not None
    first = states[:-1:length].flatten(0, 1).to(device)
    return (
        Batch(
            flat(one_tensor(rollout.obs)),
            flat(rollout.actions),
            advantages,
            flat(rollout.log_probs),
            weights,
            None if rollout.mask is None else flat(rollout.mask),
            sequence_length=length,
            starts=flat(rollout.starts),
            state=first[:, : agent.recurrent.state_size],
        ),
        returns,
        values,
    )


def critic_rows(
    agent: Agent, rollout: Rollout, path: Batch, returns: Tensor
) -> tuple[Rows | Batch, Tensor]:
    """What the critic is fitted to, rows and targets [N]: those of the batch, or where the critic
    has a memory sequences with the states of its own.
    """
    if not agent.critic.state_size:
        kept = _kept(rollout, path)
        if kept is None:
            return path.obs, returns
        return one_tensor(path.obs)[kept], returns[kept]
    assert rollout.states is not None and path.sequence_length and agent.recurrent is not None
    first = rollout.states[: -1 : path.sequence_length].flatten(0, 1).to(agent.device)
    kept = _kept(rollout, path)
    rows = Batch(
        path.obs,
        weights=None if kept is None else kept.to(returns.dtype),
        sequence_length=path.sequence_length,
        starts=path.starts,
        state=first[:, agent.recurrent.state_size :],
    )
    return rows, returns


def some_rows(
    obs: Rows | Batch, returns: Tensor, share: float, generator: torch.Generator
) -> tuple[Rows | Batch, Tensor]:
    """A random share of the rows and their returns [N], of a batch of whole sequences."""
    length = (obs.sequence_length or 1) if isinstance(obs, Batch) else 1
    units, device = len(returns) // length, returns.device
    order = torch.randperm(units, generator=generator, device=device)
    chosen = rows_of(order[: max(1, round(share * units))], length)
    if isinstance(obs, Batch):
        return obs.rows(chosen), returns[chosen]
    return map_rows(lambda part: part[chosen], obs), returns[chosen]


def explained_variance(rollout: Rollout, path: Batch, values: Tensor, returns: Tensor) -> Tensor:
    """Of the returns [N] by the critic's predictions [N], over transitions."""
    kept = _kept(rollout, path)
    if kept is not None:
        values, returns = values[kept], returns[kept]
    return advantage.explained_variance(values, returns)


def _kept(rollout: Rollout, path: Batch) -> Tensor | None:
    """Which rows [N] of sequences are transitions; None where all rows of the batch are."""
    if rollout.valid is None or path.sequence_length is None:
        return None
    return _in_sequences(rollout.valid, path.sequence_length).to(one_tensor(path.obs).device)


def _in_sequences(tensor: Tensor, length: int) -> Tensor:
    """[T, E, ...] to [T E, ...], of so many steps of one copy after the other."""
    parts = tensor.unflatten(0, (-1, length)).transpose(1, 2)
    return parts.flatten(0, 2)


def _rewards_and_gains(agent: Agent, rollout: Rollout) -> tuple[Tensor, Tensor]:
    """Rewards [T, E] as they are learned from, and Q - V [T, E]."""
    rewards = rollout.rewards
    if agent.reward_scaler is not None:
        rewards = agent.reward_scaler(rewards, rollout.done, rollout.valid)
    return rewards, _gains(agent, rollout, rewards)


def _gains(agent: Agent, rollout: Rollout, rewards: Tensor) -> Tensor:
    """Q - V [T, E] by the config's estimator; what remains of the whole return is GAE(1)."""
    config = agent.config
    rows = rewards, rollout.values, rollout.following, rollout.done
    if config.advantage == "n_step":
        return advantage.n_step(*rows, gamma=config.gamma, steps=config.n_step)
    return advantage.gae(
        *rows,
        gamma=config.gamma,
        lam=1.0 if config.advantage == "returns" else config.gae_lambda,
        backend=config.backend if rewards.device == agent.device else "reference",
    )


def check_size(rewards: Tensor, returns: Tensor) -> None:
    """Refuse large rewards [T, E] that make returns [N] whose variance float32 cannot hold."""
    spread = (returns / len(returns) ** 0.5).square().sum()
    if torch.isfinite(spread):
        return
    paid, sums = (float(tensor.abs().max()) for tensor in (rewards, returns))
    if LARGE < paid < math.inf:
        wanted = "ones whose returns float32 can square (normalize_rewards=True scales them)"
        raise fail("rewards", wanted, f"up to {paid:.3g}, which make returns up to {sums:.3g}")
