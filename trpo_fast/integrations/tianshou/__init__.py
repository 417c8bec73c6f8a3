"""``NPG`` and ``TRPO`` in the place of tianshou's: the same to whoever uses them."""

from ..._base.extras import require

require("tianshou", "trpo_fast.integrations.tianshou", "tianshou")

from .algorithms import NPG, TRPO  # noqa: E402

__all__ = ["NPG", "TRPO"]
