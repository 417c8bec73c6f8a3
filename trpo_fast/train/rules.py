"""The update rules an agent can be configured with, on the settings of its config."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from .._base.options import UpdateOptions
from .._base.rows import Rows, count_rows
from .._base.threads import OneThread
from ..backends.registry import resolve
from ..core import checks
from ..core.batch import Batch
from ..core.search_checks import CG
from ..policy.heads import Head
from ..policy.recurrent import RecurrentPolicy
from ..updates.first_order import pg_update
from ..updates.info import UpdateInfo
from ..updates.multiplier import Penalty
from ..updates.natural import OPTIONS, npg_update, trpo_update, update_problem
from ..updates.penalty import kl_penalty_update
from ..updates.rat import rat_problem, rat_update
from ..updates.sampler import distribution_params
from .config import Config


def make_penalty(config: Config) -> Penalty:
    """The multiplier of ``algorithm="kl-penalty"``."""
    c = config
    return Penalty(
        c.penalty, c.penalty_rule, c.max_kl, c.penalty_rate, c.penalty_min, c.penalty_max
    )


def is_limited(config: Config) -> bool:
    """Whether ``max_kl`` has a say in the updates of the config's algorithm."""
    if config.algorithm == "npg":
        return config.npg_learning_rate is None
    if config.algorithm == "kl-penalty":
        return config.penalty_rule != "fixed"
    return config.algorithm != "pg"


def apply_rules(
    policy: nn.Module, batch: Batch, config: Config, penalty: Penalty, max_kl: float, *, sync: bool
) -> UpdateInfo:
    """Move the policy ``config.updates_per_rollout`` times on one batch, which it sampled itself;
    what the last update reports. Update j of n has the limit (j / n)^2 max_kl on the KL to the
    policy before the first: lengths, square roots of KLs, add up.
    """
    count = config.updates_per_rollout
    later = batch
    if count > 1:  # a forward now is the sampler's: nothing has moved the policy since
        with OneThread():
            params = distribution_params(
                policy,
                batch.obs,
                batch.action_mask,
                sequence_length=batch.sequence_length,
                starts=batch.starts,
                state=batch.state,
            )
        later = replace(batch, old_params=params)
    for j in range(1, count):
        rows, limit = batch if j == 1 else later, (j / count) ** 2 * max_kl
        apply_rule(policy, rows, config, penalty, limit, sync=sync)
    return apply_rule(policy, later, config, penalty, max_kl, sync=sync)


def apply_rule(
    policy: nn.Module, batch: Batch, config: Config, penalty: Penalty, max_kl: float, *, sync: bool
) -> UpdateInfo:
    """Move the policy by ``config.algorithm``, within ``max_kl``."""
    c = config
    shared: dict[str, Any] = {"backend": c.backend, "sync": sync, **_options(c)}
    if c.algorithm == "pg":
        rate, norm = c.pg_learning_rate, c.pg_max_grad_norm
        return pg_update(policy, batch, learning_rate=rate, max_grad_norm=norm, **shared)
    shared["damping"] = c.damping
    shared |= _rows(c, batch)
    search: dict[str, Any] = {
        "backtrack_ratio": c.backtrack_ratio,
        "backtrack_steps": c.backtrack_steps,
    }
    if c.algorithm == "rat":
        return rat_update(policy, batch, max_kl=max_kl, max_rows=c.rat_max_rows, **search, **shared)
    shared |= {name: getattr(c, name) for name in CG}
    if c.algorithm == "kl-penalty":
        penalty.target_kl = max_kl
        inner: dict[str, Any] = {
            "inner": c.penalty_inner,
            "adam_steps": c.penalty_adam_steps,
            "learning_rate": c.penalty_learning_rate,
            "rounds": c.penalty_rounds,
            "tolerance": c.penalty_tolerance,
        }
        return kl_penalty_update(policy, batch, penalty, **inner, **search, **shared)
    if c.algorithm == "npg":
        return npg_update(policy, batch, learning_rate=c.npg_learning_rate, max_kl=max_kl, **shared)
    return trpo_update(policy, batch, max_kl=max_kl, **search, **shared)


def _options(config: Config) -> UpdateOptions:
    """The options that are settings of a run; ``fvp_rows`` comes with the batch."""
    options = {n: getattr(config, n) for n in OPTIONS if n not in ("fvp_rows", "group")}
    return cast(UpdateOptions, options)


def _rows(config: Config, batch: Batch) -> UpdateOptions:
    """The rows of the products, where they are not all."""
    if config.fvp_fraction == 1.0:
        return {}
    return {"fvp_rows": max(1, round(config.fvp_fraction * len(batch)))}


def raise_for_values(policy: nn.Module, batch: Batch, config: Config) -> None:
    """Raise for the first value of the batch that no update can use; moves nothing."""
    options = cast(UpdateOptions, {**_options(config), **_rows(config, batch)})
    checks.raise_for_values(update_problem(policy, batch, config.damping, options, True))


def check_serves(
    policy: nn.Module, head: Head, config: Config, obs: Rows, mask: Tensor | None = None
) -> None:
    """Raise here and now where updates of the policy on rows like obs would."""
    zeros = next(policy.parameters()).new_zeros(count_rows(obs))
    kind = torch.int64 if head.nvec else zeros.dtype
    actions = zeros.new_zeros(len(zeros), *head.action_shape, dtype=kind)
    steps = 1 if isinstance(policy, RecurrentPolicy) else None
    batch = Batch(obs, actions, zeros, zeros, action_mask=mask, sequence_length=steps)
    options, damping = _options(config), config.damping
    if config.algorithm == "rat":
        problem = rat_problem(policy, batch, damping, config.rat_max_rows, options, True)
    else:
        problem = update_problem(policy, batch, damping, options, True)
    resolve(config.backend, problem)
