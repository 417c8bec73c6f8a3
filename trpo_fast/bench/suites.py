"""Every suite by name."""

from __future__ import annotations

from .gain_suites import TO_GAIN
from .learner_suites import ACT, CRITIC_128, CRITIC_1024
from .suite import Suite
from .update_suites import CG, FVP, UPDATE

SUITES: dict[str, Suite] = {
    suite.name: suite for suite in (FVP, CG, *TO_GAIN, UPDATE, ACT, CRITIC_128, CRITIC_1024)
}
# What a user names: `critic` times both sizes of minibatch.
GROUPS: dict[str, tuple[str, ...]] = {
    "fvp": ("fvp",),
    "cg": ("cg", *(suite.name for suite in TO_GAIN)),
    "update": ("update",),
    "act": ("act",),
    "critic": ("critic_128", "critic_1024"),
}
