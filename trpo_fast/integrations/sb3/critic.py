"""The critic's part of sb3-contrib's ``TRPO.train()``: Adam on the mean squared error over
minibatches, by this package's fits where value net, optimiser and buffer are as sb3 makes them.

The fits' loss is half of theirs: gradients are g / 2, Adam's moments m / 2 and v / 4, and eps / 2
gives the same steps. The moments are the optimiser's own, read before and written back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from ..._base.choices import Backend
from ...backends.support import choose
from ...learner.fit_backends import FITS, SUPPORTS
from ...learner.fits import AdamState, Targets
from ...policy.flat import flat_params, mark_written, trainable
from ...policy.net import MLPPolicy
from .parts import critic_of, features

_UNUSUAL = ("amsgrad", "maximize", "weight_decay", "capturable", "differentiable", "fused")


def fit_critic(
    policy: ActorCriticPolicy,
    buffer: RolloutBuffer,
    shared: Sequence[nn.Parameter],
    *,
    epochs: int,
    batch_size: int,
    backend: Backend,
) -> list[float]:
    """Fit the values to the buffer's returns; losses whose mean is that of all minibatches.
    ``shared`` are the actor's parameters, which stay as they are.
    """
    net = critic_of(policy)
    if net is None or not _draws_as_known(buffer) or not is_plain_adam(policy.optimizer, net):
        return _fit_by_torch(policy, buffer, shared, epochs, batch_size)
    rows = buffer._get_samples(slice(None))  # type: ignore[arg-type]  # a view, where sb3 gathers
    seen = features(policy, rows.observations, policy.vf_features_extractor)
    targets, count = Targets(seen, rows.returns), len(seen)
    fit = FITS[choose(backend, SUPPORTS, net, "adam", can="fit this critic")]
    rate = float(policy.optimizer.param_groups[0]["lr"])
    whole, full, losses = fit(net, targets), count // batch_size * batch_size, []
    with _moments(policy.optimizer, net) as advance:
        for _ in range(epochs):
            order = torch.from_numpy(np.random.permutation(count)).to(seen.device)
            if full in (0, count):
                state = advance(-(-count // batch_size))
                losses.append(float(whole.adam(state, order[None], batch_size, rate)))
                continue
            parts = []  # their mean counts the truncated minibatch like the others
            for part in (order[:full], order[full:]):
                every = torch.arange(len(part), device=seen.device)[None]
                state = advance(-(-len(part) // batch_size))
                some = fit(net, targets.rows(part))
                parts.append(float(some.adam(state, every, batch_size, rate)))
            losses.append(float(np.average(parts, weights=(full // batch_size, 1))))
    return [2.0 * loss for loss in losses]


def _draws_as_known(buffer: RolloutBuffer) -> bool:
    """Whether the buffer's minibatches are the parts of one ``np.random.permutation``."""
    return any(
        type(buffer).get is kind.get and type(buffer)._get_samples is kind._get_samples
        for kind in (RolloutBuffer, DictRolloutBuffer)
    )


def is_plain_adam(optimizer: torch.optim.Optimizer, net: MLPPolicy) -> bool:
    """Whether a step of the optimiser moves the net's layers as the fits' Adam does."""
    groups, layers = optimizer.param_groups, list(net.net.parameters())
    if type(optimizer) is not torch.optim.Adam or len(groups) != 1:
        return False
    hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    if any(hooks) or any(groups[0].get(name) for name in _UNUSUAL):
        return False
    held = {id(p) for p in groups[0]["params"]}
    steps = {float(optimizer.state[p]["step"]) for p in layers if optimizer.state.get(p)}
    known = sum(bool(optimizer.state.get(p)) for p in layers)
    return all(id(p) in held for p in layers) and known in (0, len(layers)) and len(steps) < 2


@contextmanager
def _moments(optimizer: torch.optim.Optimizer, net: MLPPolicy) -> Iterator[Any]:
    """A function that gives Adam's state for so many steps more; what fits leave in it is the
    optimiser's state at the end.
    """
    layers = list(net.net.parameters())
    for p in layers:
        if not optimizer.state.get(p):
            zeros = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[p] = {"step": torch.tensor(0.0), **zeros}
    states, theta = [optimizer.state[p] for p in layers], flat_params(net)
    beta1, beta2 = optimizer.param_groups[0]["betas"]
    eps = 0.5 * optimizer.param_groups[0]["eps"]
    # The head's log_std rests; it is the last of the flat parameters.
    sizes = [p.numel() for p in trainable(net)]
    moments = theta.new_zeros(2, theta.numel())
    names = (("exp_avg", 0.5), ("exp_avg_sq", 0.25))
    views = [
        (state[name], part.view_as(state[name]), factor)
        for row, (name, factor) in zip(moments, names, strict=True)
        for state, part in zip(states, row.split(sizes)[: len(layers)], strict=True)
    ]
    for theirs, ours, factor in views:
        ours.copy_(theirs).mul_(factor)
    taken = int(states[0]["step"])
    counted = torch.full((1,), taken, dtype=torch.int64, device=theta.device)

    def advance(steps: int) -> AdamState:
        nonlocal taken
        state = AdamState(moments[0], moments[1], taken, counted, beta1, beta2, eps)
        taken += steps
        return state

    try:
        yield advance
    finally:
        mark_written(net)
        for theirs, ours, factor in views:
            theirs.copy_(ours).div_(factor)
        for state in states:
            state["step"].fill_(taken)


def _fit_by_torch(
    policy: ActorCriticPolicy,
    buffer: RolloutBuffer,
    shared: Sequence[nn.Parameter],
    epochs: int,
    batch_size: int,
) -> list[float]:
    """Their own loop."""
    losses = []
    for _ in range(epochs):
        for rows in buffer.get(batch_size):
            values: Tensor = policy.predict_values(rows.observations)
            loss = F.mse_loss(rows.returns, values.flatten())
            losses.append(loss.item())
            policy.optimizer.zero_grad()
            loss.backward()
            for p in shared:  # a shared extractor follows the actor alone
                p.grad = None
            policy.optimizer.step()
    return losses
