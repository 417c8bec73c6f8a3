"""The update rules an agent can be configured with, on the settings of its config."""

from __future__ import annotations

from typing import Any

from .config import Config
from .penalty import Penalty, kl_penalty_update, pg_update
from .policy import MLPPolicy
from .surrogate import Batch
from .update import UpdateInfo, npg_update, trpo_update


def apply_rule(
    policy: MLPPolicy, batch: Batch, config: Config, penalty: Penalty, max_kl: float, *, sync: bool
) -> UpdateInfo:
    """Move the policy by ``config.algorithm``, within ``max_kl``."""
    c = config
    shared: dict[str, Any] = {"backend": c.backend, "precision": c.precision, "sync": sync}
    shared |= {"kl_reduction": c.kl_reduction, "chunk_rows": c.chunk_rows}
    if c.algorithm == "pg":
        return pg_update(policy, batch, learning_rate=c.pg_learning_rate, **shared)
    shared |= {"damping": c.damping, "cg_iterations": c.cg_iterations, "cg_tol": c.cg_tol}
    if c.fvp_fraction < 1.0:
        shared["fvp_rows"] = max(1, round(c.fvp_fraction * len(batch)))
    search: dict[str, Any] = {
        "backtrack_ratio": c.backtrack_ratio,
        "backtrack_steps": c.backtrack_steps,
    }
    if c.algorithm == "kl-penalty":
        penalty.target_kl = max_kl
        return kl_penalty_update(policy, batch, penalty, **search, **shared)
    if c.algorithm == "npg":
        return npg_update(policy, batch, learning_rate=c.npg_learning_rate, max_kl=max_kl, **shared)
    return trpo_update(policy, batch, max_kl=max_kl, **search, **shared)
