"""``TRPO`` in the place of sb3-contrib's: the same to whoever uses it, with another ``train()``."""

from ..._base.extras import require

require("sb3_contrib", "trpo_fast.integrations.sb3", "sb3")

from .trpo import TRPO  # noqa: E402

__all__ = ["TRPO"]
