"""``TRPO`` for rsl_rl's ``OnPolicyRunner``, by which Isaac Lab, mjlab, Genesis and others train.
Its name there is ``trpo_fast.integrations.rsl_rl:TRPO``.
"""

from ..._base.extras import require

require("rsl_rl", "trpo_fast.integrations.rsl_rl", "rsl-rl")

from .trpo import TRPO  # noqa: E402

__all__ = ["TRPO"]
