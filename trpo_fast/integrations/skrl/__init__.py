"""``TRPO`` in the place of skrl's agent: the same to whoever uses it, with another ``update()``."""

from ..._base.extras import require

require("skrl", "trpo_fast.integrations.skrl", "skrl")

from .trpo import TRPO  # noqa: E402

__all__ = ["TRPO"]
