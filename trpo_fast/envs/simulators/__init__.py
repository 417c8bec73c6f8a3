"""Simulators of other projects as tensor environments, whose data stays on its device.

>>> from trpo_fast.envs.simulators import Brax
>>> agent = TRPO(Brax(registry.load("CartpoleBalance"), 1024), gamma=0.99)
"""

from __future__ import annotations

from .brax import Brax
from .known import check_wrapped
from .managers import IsaacLab, Mjlab
from .maniskill import ManiSkill

__all__ = ["Brax", "IsaacLab", "ManiSkill", "Mjlab", "check_wrapped"]
